"""Recipes: all settings of a run, its block growth, and the bundled YAML files."""
