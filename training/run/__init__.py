"""A training run: launch, the loop, optimisers, checkpoints, the run's folder, probes and export."""
