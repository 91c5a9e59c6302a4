"""What a config says about windows and about the length of the context."""

import pytest
from transformers import AutoConfig

from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.layer_kinds import context_length_of, full_attention_length_of, window_of

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("family", "fields", "window", "context"),
    [
        ("llama", {}, None, 512),
        ("mistral", {"sliding_window": 100}, 100, 512),
        ("mistral", {"sliding_window": None}, None, 512),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 0}, 40, 512),
        ("qwen2", {"sliding_window": 40, "use_sliding_window": False}, None, 512),
        ("gemma3_text", {"sliding_window": 64}, 64, 512),
        ("qwen3", {"rope_parameters": {**YARN, "original_max_position_embeddings": 512}}, None, 2048),
        ("qwen3", {"rope_parameters": {**YARN, "original_max_position_embeddings": 128}}, None, 512),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, None, 512),
    ],
)
def test_window_and_context(family, fields, window, context):
    layers = {"num_hidden_layers": 2, "max_position_embeddings": 512}
    config = AutoConfig.for_model(family, **{**layers, **fields})
    assert window_of(config) == window
    assert context_length_of(config, "x") == context
    assert full_attention_length_of(config, "x") == min(context, window or context)


def test_a_config_without_a_length_is_refused():
    config = AutoConfig.for_model("mamba")
    with pytest.raises(CheckpointError, match="does not say how long its context is"):
        context_length_of(config, "x")
