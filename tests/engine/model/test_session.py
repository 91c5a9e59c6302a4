"""Sliding windows and LongRoPE: the tokens are those of transformers' own generation, past the window and the original
context, alone and beside rows of other lengths."""

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.model import rope
from nbdiff_engine.model.block_model import BlockModel
from tests.engine.answers import ids
from tests.reference import causal, logits_of
from tests.tiny import MASK, prompt_ids, tiny_model

WINDOW = 12
WINDOWED = {
    "mistral": {"sliding_window": WINDOW},
    "phi3": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 2},
    "starcoder2": {"sliding_window": WINDOW},
    "qwen2": {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
}
ORIGINAL = 64  # tokens of the original context of the LongRoPE models


def stock_answer(model: BlockModel, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of transformers' own `generate`; it never predicts MASK."""
    output = model.network.generate(
        torch.tensor([prompt]), max_new_tokens=count, do_sample=False, suppress_tokens=[MASK], use_cache=True
    )
    return output[0, len(prompt) :].tolist()


def windowed(family: str, **spec) -> BlockModel:
    return tiny_model(family, spec=spec, fused=True, **WINDOWED[family])


@pytest.mark.parametrize("family", WINDOWED)
def test_ar_past_a_sliding_window_equals_transformers(family):
    model = windowed(family)
    assert model.window == WINDOW
    assert model.context_length == 256
    prompts = [prompt_ids(length, seed=length) for length in (40, 5, 90)]
    answers = [stock_answer(model, prompt, 24) for prompt in prompts]
    assert ids(model, prompts, strategy="ar", max_new_tokens=24) == answers


@pytest.mark.parametrize("family", ["mistral", "qwen2", "olmo3"])
def test_the_window_matters_in_these_models(family):
    """Without its window the model gives other tokens, so the test above can fail."""
    model, prompt = windowed(family), prompt_ids(40)
    expected = stock_answer(model, prompt, 24)
    model.__dict__["window"] = None
    assert ids(model, prompt, strategy="ar", max_new_tokens=24) != expected


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("temperature", [0, 1])
def test_self_speculation_past_a_window_equals_ar(family, temperature):
    model = windowed(family)
    prompts = [prompt_ids(length, seed=length) for length in (40, 5)]
    settings = {"max_new_tokens": 24, "temperature": temperature}
    ar = ids(model, prompts, strategy="ar", **settings)
    assert ids(model, prompts, strategy="self_speculative", block_size=5, **settings) == ar


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_denoise_pass_past_a_window_equals_the_uncached_pass(family):
    model, prompt = windowed(family), prompt_ids(30)
    block = [5, MASK, MASK, 7, MASK]
    session = model.open(1, 64)
    session.prefill([prompt])
    seen = session.denoise([block])[0]
    whole = prompt + block
    allowed = causal(len(whole))
    allowed[len(prompt) :, len(prompt) :] = True
    near = torch.arange(len(whole))[:, None] - torch.arange(len(whole)) < WINDOW
    if family == "mistral":
        expected = logits_of(model, whole, allowed & near)[len(prompt) :]
    else:
        masks = {"full_attention": allowed[None, None], "sliding_attention": (allowed & near)[None, None]}
        expected = model.network(torch.tensor([whole]), attention_mask=masks, use_cache=False).logits[0, len(prompt) :]
    others = torch.arange(expected.shape[1]) != MASK
    assert torch.allclose(seen[:, others], expected[:, others], atol=1e-4)


# -- LongRoPE -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_rope() -> BlockModel:
    """A Phi-3 with LongRoPE: short frequencies up to ORIGINAL tokens, very different long ones after it."""
    return long_rope_model()


def long_rope_model(fixed: bool = True) -> BlockModel:
    model = tiny_model(
        "phi3",
        original_max_position_embeddings=ORIGINAL,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
            "original_max_position_embeddings": ORIGINAL,
        },
    )
    if fixed:
        rope.fix_rope_per_row(model.network, model.name)
    return BlockModel(model.network, None, model.spec, model.name)


@pytest.mark.parametrize("length", [20, ORIGINAL - 10, ORIGINAL + 1, 150])
def test_long_rope_equals_transformers(long_rope, length, monkeypatch):
    prompt = prompt_ids(length, seed=length)
    expected = stock_answer(long_rope_model(fixed=False), prompt, 8)
    monkeypatch.setattr("nbdiff_engine.model.passes.PREFILL_CHUNK", 16)
    assert ids(long_rope, prompt, strategy="ar", max_new_tokens=8) == expected


def test_a_long_row_does_not_change_a_short_row(long_rope):
    prompts = [prompt_ids(length, seed=length) for length in (20, 150, 30)]
    settings = {"strategy": "ar", "max_new_tokens": 8}
    assert ids(long_rope, prompts, **settings) == [ids(long_rope, prompt, **settings) for prompt in prompts]
    batch = ids(long_rope, prompts, strategy="self_speculative", max_new_tokens=8)
    assert batch == ids(long_rope, prompts, **settings)


def test_a_row_that_can_pass_the_original_context_has_the_long_frequencies_from_the_start(long_rope):
    prompt = prompt_ids(ORIGINAL - 10)
    inside, beyond = (ids(long_rope, prompt, strategy="ar", max_new_tokens=count) for count in (10, 11))
    session = long_rope.open(1, ORIGINAL, row_lengths=[ORIGINAL + 1])
    assert int(session.prefill([prompt])[0].argmax()) == beyond[0]
    assert inside != beyond[:10]


def test_frequencies_for_each_kind_of_layer_are_refused():
    parts = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = tiny_model(
        "gemma3_text",
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": parts, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )
    with pytest.raises(nb.CheckpointError, match="RoPE frequencies depend on the length"):
        rope.fix_rope_per_row(model.network, model.name)
