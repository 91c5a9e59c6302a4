"""Models asked problems under decode settings: accuracy, tokens per forward and speed, compared prompt by prompt."""

from nbdiff_engine.evaluation.run import batches_of, check_batch_size, evaluate
from nbdiff_engine.evaluation.settings import DEFAULT_SETTINGS, MAX_NEW_TOKENS, label_of

__all__ = ["DEFAULT_SETTINGS", "MAX_NEW_TOKENS", "batches_of", "check_batch_size", "evaluate", "label_of"]
