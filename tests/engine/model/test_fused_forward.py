"""The fused forward gives the logits and tokens of the stock layers and stores the weights once."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nbdiff_engine as nb
from nbdiff_engine import BlockModel
from nbdiff_engine.model.fused_forward import can_fuse
from nbdiff_engine.tasks import held_out
from tests.tiny import FAMILIES, FUSED, MASK, SHAPE, prompt_ids, tiny_model

SETTINGS = (
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 16, "threshold": 0.9},
    {"strategy": "block_diffusion", "block_size": 32, "sub_block_size": 8, "unmasking": "entropy_bound"},
    {"strategy": "self_speculative", "block_size": 16},
    {"strategy": "self_speculative", "block_size": 8, "draft_steps": 2, "temperature": 0.8, "top_p": 0.9, "seed": 3},
)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [problem.prompt for domain in ("math", "code", "knowledge", "story") for problem in held_out(domain, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bundled_model_fixes_the_same_tokens_at_the_same_steps_as_the_plain_forward(dtype, prompts):
    plain, fused = (nb.load("nano", dtype=dtype, fused=choice) for choice in (False, True))
    assert fused._fused is not None
    assert plain._fused is None
    for settings in SETTINGS:
        for batch in (prompts, prompts[0]):  # a ragged batch, and a row alone
            outputs = (nb.generate(model, batch, max_new_tokens=48, **settings) for model in (plain, fused))
            for one, other in zip(*(out if isinstance(out, list) else [out] for out in outputs), strict=True):
                assert one.token_ids == other.token_ids, settings
                assert steps(one) == steps(other), settings


def steps(output) -> list[list[int]]:
    """Which positions each forward fixed."""
    return [[each.position for each in event.fixed] for event in output.trace.events if hasattr(event, "fixed")]


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_passes_equal_those_of_the_stock_layers(family, bias, dtype):
    shape = {} if family == "qwen2" else {"attention_bias": bias}
    models = [tiny_model(family, fused=choice, **shape) for choice in (False, True)]
    with torch.no_grad():
        for plain, fused in zip(*(model.network.parameters() for model in models), strict=True):
            noise = torch.rand_like(plain)  # with biases of 0 and norms of 1 an error would not show
            for each in (plain, fused):
                each.add_(0.1 * noise)
    models = [BlockModel(model.network.to(dtype), None, model.spec, "tiny", fused=f) for f, model in enumerate(models)]
    found = []
    for model in models:
        session = model.open(2, 64)
        logits = [session.prefill([prompt_ids(9), prompt_ids(17)])]
        logits += [session.denoise([[5, MASK, MASK, 7]] * 2), session.commit([[5, 6, 6, 7]] * 2)]
        logits += [session.commit([[6], [7]])]  # a single query: heads are arranged differently in bfloat16
        found.append(torch.cat([each.flatten() for each in logits]))
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance * found[0].abs().max().item())


def test_the_weights_are_stored_once():
    model = tiny_model("llama", fused=True)
    attention, layer = model.network.base_model.layers[0].self_attn, model._fused.layers[0]
    start, end = layer.qkv.weight.data_ptr(), layer.qkv.weight.data_ptr() + layer.qkv.weight.nbytes
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert start <= projection.weight.data_ptr() < end


def test_a_context_longer_than_the_rope_table_gives_the_same_logits():
    plain, fused = (tiny_model("qwen3", fused=choice, max_position_embeddings=1024) for choice in (False, True))
    found = []
    for model in (plain, fused):
        session = model.open(1, 900)
        session.prefill([prompt_ids(5)])
        found.append(torch.stack([session.prefill([prompt_ids(700)])[0], session.commit([prompt_ids(8)])[0, -1]]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(FUSED)))
def test_other_families_are_not_fused(family):
    assert tiny_model(family, fused=True)._fused is None


def test_unsupported_networks_are_not_fused():
    assert tiny_model("llama", attention="eager", fused=True)._fused is None
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert tiny_model("llama", fused=True, rope_parameters=rope)._fused is None
    network = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert can_fuse(network)
    network.base_model.layers[1].mlp.up_proj = torch.nn.Sequential(network.base_model.layers[1].mlp.up_proj)
    assert not can_fuse(network)


def test_a_model_for_training_is_not_fused():
    assert nb.load("nano", for_training=True)._fused is None
