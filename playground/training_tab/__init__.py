"""The Training tab: a form to start jobs, a place to watch them, and one to compare them."""
