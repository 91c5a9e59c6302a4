"""Information about a run before it starts: estimate, preview, shapes of checkpoints, and their commands."""
