"""The training tab: start adaptation jobs, watch them learn, compare them, and open what they have made."""

from playground.training.tab import TrainingTab

__all__ = ["TrainingTab"]
