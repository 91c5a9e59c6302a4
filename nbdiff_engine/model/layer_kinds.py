"""What a config says about its layers' attention: the window of sliding layers, and the length of the context."""

from transformers import PreTrainedConfig

from nbdiff_engine.errors import CheckpointError


def window_of(config: PreTrainedConfig) -> int | None:
    """How many tokens a sliding-window layer sees, itself included; None if no layer has a window.

    A query at position q sees the keys k with q - k < window, as in transformers' masks.
    """
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    return window if not kinds or any("sliding" in kind for kind in kinds) else None


def context_length_of(config: PreTrainedConfig, label: str) -> int:
    """Positions that a network of this config can hold. Raises CheckpointError if the config does not give a limit.

    YaRN extends the context to its factor times the original length (arXiv 2309.00071); configs of Qwen's style give
    the original length as `max_position_embeddings`. Dynamic NTK changes the frequencies of tokens that are in the
    cache already, and chunked attention needs a mask that this engine does not have: both are limited to the length up
    to which they are plain attention.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 2:
        raise CheckpointError(f"The config.json of {label} does not say how long its context is.")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "yarn":
        limit = max(limit, int(rope["factor"] * rope.get("original_max_position_embeddings", 0)))
    if any("chunked" in kind for kind in getattr(config, "layer_types", None) or ()):
        limit = min(limit, config.attention_chunk_size)
    return limit


def full_attention_length_of(config: PreTrainedConfig, label: str) -> int:
    """Positions up to which every layer sees its whole context. Raises as `context_length_of`.

    Training packs are masked without windows, so their documents are at most this long.
    """
    context = context_length_of(config, label)
    return min(context, window_of(config) or context)
