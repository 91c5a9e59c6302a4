"""`check_network` and `load` refuse networks that cannot be decoded step by step with a KV cache."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

import nbdiff_engine as nb
import nbdiff_engine.model.block_model as block_model
from nbdiff_engine import BlockModel, CheckpointError
from nbdiff_engine.model.network_check import check_network


@pytest.fixture
def capped() -> Gemma2ForCausalLM:
    """A network that caps its logits after the head."""
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=0.01,
        attn_logit_softcapping=None,
    )
    config._attn_implementation = "eager"
    return Gemma2ForCausalLM(config)


def test_a_network_that_changes_its_logits_after_the_head_is_refused(capped):
    with pytest.raises(CheckpointError, match="changes its logits after the head"):
        check_network(BlockModel(capped, None, None, "capped"))


SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def test_load_checks_the_network(tmp_path):
    """nanochat caps its logits after the head."""
    config = AutoConfig.for_model("nanochat", final_logit_softcapping=0.01, **SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="changes its logits after the head"):
        nb.load(tmp_path)


def test_a_wrong_scale_of_the_logits_is_refused(tmp_path, monkeypatch):
    """Granite divides its logits by a constant of its config."""
    config = AutoConfig.for_model("granite", logits_scaling=4.0, **SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert nb.load(tmp_path).parameters > 0
    monkeypatch.setattr(block_model, "logit_scale_of", lambda config: 1.0)
    with pytest.raises(CheckpointError, match="changes its logits after the head"):
        nb.load(tmp_path)


def test_a_network_of_every_known_family_passes(any_model):
    check_network(any_model)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("mamba", {}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "num_attention_heads": 4, "num_key_value_heads": 2}),
    ],
)
def test_unsupported_architectures_are_refused(tmp_path, family, shape):
    config = AutoConfig.for_model(family, vocab_size=64, hidden_size=32, num_hidden_layers=2, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as refused:
        nb.load(tmp_path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
