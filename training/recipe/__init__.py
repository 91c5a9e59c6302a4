"""A recipe: every setting of a run, its block growth, and the YAML files that come with the project."""
