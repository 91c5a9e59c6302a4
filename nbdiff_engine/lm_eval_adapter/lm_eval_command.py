"""`python -m nbdiff_engine lm-eval ...`: lm_eval's own command line, with this engine among its models."""

import sys
from collections.abc import Sequence
from importlib import import_module

from nbdiff_engine.errors import NBDiffError

NAME = "nbdiff"


def register() -> None:
    """Make `model="nbdiff"` known to lm_eval in this process; the class itself is imported once it is asked for.

    Raises NBDiffError where lm_eval is not installed.
    """
    try:
        import_module("lm_eval.models")  # first: lm_eval fills its registry with its own models only while it is empty
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise NBDiffError(
            "lm-evaluation-harness is not installed; install it with: pip install 'lm_eval>=0.4.13,<0.5'"
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="nbdiff_engine.lm_eval_adapter.lm_eval_model:NBDiffLM")


def run(arguments: Sequence[str]) -> None:
    """Run lm_eval's command line with `arguments`. It ends the process itself where they are wrong."""
    register()
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm-eval", *arguments]  # the only way in: its parser reads, and edits, sys.argv
    try:
        cli_evaluate()
    finally:
        sys.argv = before
