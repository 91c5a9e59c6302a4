"""What can be known before a run: estimate, preview, shapes of checkpoints, and their commands."""
