"""Evaluation of models under decode settings: accuracy, tokens per forward and speed, compared prompt by prompt."""
