"""The Training tab: start training jobs, watch them, compare their runs."""
