"""Stock families, as tiny random models: AR decoding is transformers' own greedy decoding, self-speculation is AR.

docs/checkpoints.md lists what is decoded here.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import nbdiff_engine as nb
from nbdiff_engine import BlockModel, DiffusionSpec
from nbdiff_engine.model.families import NOT_DECODED, logit_scale_of
from nbdiff_engine.model.network_check import check_network
from tests import tiny

VOCABULARY, MASK = 64, 1
# Not every family has a head_dim of its own.
SHAPE = {name: value for name, value in tiny.SHAPE.items() if name != "head_dim"} | {"vocab_size": VOCABULARY}
HEAD = {"head_dim": 8}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
DECODED = {
    "llama": {},
    "qwen2": {},
    "qwen3": HEAD,
    "mistral": {},
    "ministral3": {},
    "gemma": HEAD,
    "gemma3_text": HEAD,
    "smollm3": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "phi": {},
    "phi3": {},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.7, "embedding_multiplier": 3.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "head_dim": 8},
    "stablelm": {},
    "starcoder2": {},
    "glm": HEAD,
    "glm4": HEAD,
    "helium": HEAD,
    "nemotron": {},
    "exaone": {},
    "exaone4": {},
    "internlm3": {},
    "ernie4_5": {},
    "seed_oss": {},
    "arcee": {},
    "apertus": {},
    "diffllama": {},
    "hyperclovax": {"logits_scaling": 0.5},
    "gpt2": {"n_positions": 256},
    "gpt_neox": {},
    "gpt_bigcode": {},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 8},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {},
    "mixtral": MOE,
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**MOE, **HEAD},
    "olmoe": MOE,
    "phimoe": MOE,
    "granitemoe": {**MOE, "logits_scaling": 4.0},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    "glm4_moe": {**MLA, **HEAD, "num_key_value_heads": 2},
    "deepseek_v2": MLA,
    "deepseek_v3": MLA,
}
NEW = 16


def network_of(family: str, **shape):
    config = AutoConfig.for_model(family, **{**SHAPE, **shape})
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    network.generation_config.eos_token_id = None
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" not in name and weight.ndim > 1 and weight.std() < 0.1:  # not all read initializer_range
                weight.normal_(std=0.4)
    return network


@pytest.mark.parametrize("family", DECODED)
def test_ar_is_greedy_decoding_of_transformers_and_self_speculation_is_ar(family):
    network = network_of(family, **DECODED[family])
    prompts = [[5, 9, 33, 12, 8, 40, 22], [7, 3, 50]]
    own = BlockModel(network, None, None, family, fused=True)
    check_network(own)
    ar = [each.token_ids for each in nb.generate(own, prompts, max_new_tokens=NEW)]
    for prompt, tokens in zip(prompts, ar, strict=True):
        ids = torch.tensor([prompt])
        greedy = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        assert tokens == greedy[0, len(prompt) :].tolist()
    adapted = BlockModel(network, None, DiffusionSpec(mask_token_id=MASK, block_size=4), family, fused=True)
    ar, fast = (
        [each.token_ids for each in nb.generate(adapted, prompts, strategy=strategy, max_new_tokens=NEW)]
        for strategy in ("ar", "self_speculative")
    )
    assert fast == ar


def test_the_logits_of_a_scaled_family_are_scaled():
    """Greedy decoding does not show a scale, but sampling and confidence depend on it."""
    for family in ("granite", "cohere", "hyperclovax"):
        network = network_of(family, **DECODED[family])
        assert logit_scale_of(network.config) == pytest.approx({"hyperclovax": 0.5}.get(family, 0.25))
        model = BlockModel(network, None, None, family)
        ids = torch.tensor([[5, 9, 33]])
        torch.testing.assert_close(model.open(1, 3).prefill(ids.tolist())[0], network(ids).logits[0, -1])


@pytest.mark.parametrize("family", NOT_DECODED)
def test_families_that_are_not_decoded_are_refused_with_the_reason(tmp_path, family):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}", "vocab_size": 64, "num_hidden_layers": 2}}')
    with pytest.raises(nb.CheckpointError) as refused:
        nb.describe(tmp_path)
    sentence = str(refused.value)
    assert NOT_DECODED[family] in sentence
    assert f"is of type {family!r}, which this engine does not decode" in sentence
    assert "\n" not in sentence


def test_mixed_layers_and_alibi_are_told_by_the_config(tmp_path):
    for fields, reason in (
        ('"model_type": "qwen3_next"', "recurrent state or a convolution"),
        ('"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]', "convolution"),
        ('"model_type": "falcon", "alibi": true', "ALiBi"),
    ):
        (tmp_path / "config.json").write_text(f"{{{fields}}}")
        with pytest.raises(nb.CheckpointError, match=reason):
            nb.describe(tmp_path)


def test_the_documentation_lists_these_families():
    text = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()
    listed = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert {*DECODED, *NOT_DECODED} - listed == set()
