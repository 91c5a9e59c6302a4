"""Calls into transformers: without its output, and with one sentence for any exception that it raises."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from nbdiff_engine.errors import brief_text
from nbdiff_engine.model.families import NOT_DECODED, NOT_NATIVE


def why_not(model_type: str, label: str, error: Exception) -> str:
    """One sentence that says why transformers cannot make a config or a network of a checkpoint."""
    for name, reason in NOT_NATIVE.items():
        if model_type.lower().startswith(name):
            return f"{label} cannot be decoded here: {reason}."
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text or "does not recognize this architecture" in text:
        return (
            f"{label} is of type {model_type!r}, which is no stock transformers class; "
            "it would need remote code, which is never run here."
        )
    if model_type in NOT_DECODED:  # its config was not even valid
        return not_decoded(model_type, label, NOT_DECODED[model_type])
    if "scaled_dot_product_attention" in text:
        return not_decoded(model_type, label, "its class has no SDPA attention, which this engine runs")
    if "Unrecognized configuration class" in text:
        return f"{label} is of type {model_type!r}, which is no causal LM; this engine decodes causal LMs."
    return f"{label} cannot be loaded: {brief_text(text, 200)}"


def not_decoded(model_type: str, label: str, reason: str) -> str:
    """One sentence that refuses a stock model type, with the reason."""
    return (
        f"{label} is of type {model_type!r}, which this engine does not decode: {reason}; "
        "docs/checkpoints.md lists the families that it decodes."
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the output of transformers during a load; this engine reports a failure by the error that it raises."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
