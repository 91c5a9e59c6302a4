"""`python -m nbdiff_engine lm-eval ...`: the command line of lm_eval, with this engine as one of its models."""

import sys
from collections.abc import Sequence
from importlib import import_module

from nbdiff_engine.errors import NBDiffError

NAME = "nbdiff"


def register() -> None:
    """Register `model="nbdiff"` with lm_eval in this process; the class itself is imported at its first use.

    Raises NBDiffError if lm_eval is not installed.
    """
    try:
        import_module("lm_eval.models")  # first: lm_eval adds its own models only to an empty registry
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise NBDiffError(
            "lm-evaluation-harness is not installed; install it with: pip install 'lm_eval>=0.4.13,<0.5'"
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="nbdiff_engine.lm_eval_adapter.lm_eval_model:NBDiffLM")


def run(arguments: Sequence[str]) -> None:
    """Run lm_eval's command line with `arguments`. lm_eval exits the process if they are invalid."""
    register()
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]  # lm_eval has no other entry: its parser reads and edits sys.argv
    try:
        cli_evaluate()
    finally:
        sys.argv = before
