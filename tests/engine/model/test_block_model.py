"""BlockModel and its sessions: cached equals uncached, rows are independent, the head is float32."""

import subprocess
import sys

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import nbdiff_engine.model.passes as passes
from nbdiff_engine import BlockModel
from nbdiff_engine.model.kv_cache import SlotCache
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.model.session import Session
from tests.growing_cache import GrowingCache
from tests.tiny import MASK, prompt_ids, tiny_model

CACHES = (SlotCache, GrowingCache)


def uncached(model: BlockModel, ids: list[int], open_from: int | None = None) -> torch.Tensor:
    """Logits [L, V] of one plain forward: causal, or bidirectional from `open_from` on."""
    allowed = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    if open_from is not None:
        allowed[open_from:, open_from:] = True
    with torch.inference_mode():
        return model.network(input_ids=torch.tensor([ids]), attention_mask=allowed[None, None], use_cache=False).logits[
            0
        ]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", CACHES)
def test_a_ragged_batch_through_prefill_denoise_commit_rollback_equals_plain_forwards(any_model, cache):
    prompts = [prompt_ids(length, seed=length) for length in (3, 17, 9)]
    blocks = [prompt_ids(8, seed=100 + row) for row in range(3)]
    session = any_model.open(3, 64, cache)

    for row, logits in enumerate(session.prefill(prompts)):
        close(logits, uncached(any_model, prompts[row])[-1])
    assert session.lengths == [3, 17, 9]

    noised = [[block[0], MASK, *block[2:5], MASK, MASK, block[7]] for block in blocks]
    for row, logits in enumerate(session.denoise(noised)):
        close(logits, uncached(any_model, prompts[row] + noised[row], len(prompts[row]))[len(prompts[row]) :])
    assert session.lengths == [3, 17, 9]

    for row, logits in enumerate(session.commit(blocks)):
        close(logits, uncached(any_model, prompts[row] + blocks[row])[len(prompts[row]) :])
    assert session.lengths == [11, 25, 17]

    session.rollback([5, 25, 10])
    kept = [(prompts[row] + blocks[row])[:length] for row, length in enumerate((5, 25, 10))]
    for row, logits in enumerate(session.commit([[7, 8]] * 3)):
        close(logits, uncached(any_model, kept[row] + [7, 8])[-2:])


@pytest.mark.parametrize("cache", CACHES)
def test_rows_in_different_phases_and_of_different_widths_share_a_forward(llama, cache):
    prompts = [prompt_ids(4, seed=1), prompt_ids(12, seed=2), prompt_ids(7, seed=3)]
    session = llama.open(3, 64, cache)
    session.prefill(prompts)
    noised, finished, single = [5, MASK, MASK, 9, MASK], [6, 7, 8, 9], [11]
    logits = session.run(
        [
            Pass.denoise(noised, 4, range(5)),
            Pass.commit(finished, 12, range(4)),
            Pass.commit(single, 7),
        ]
    )
    close(logits[:5], uncached(llama, prompts[0] + noised, 4)[4:])
    close(logits[5:9], uncached(llama, prompts[1] + finished)[12:])
    close(logits[9:], uncached(llama, prompts[2] + single)[-1:])
    assert session.lengths == [4, 16, 8]


@pytest.mark.parametrize("cache", CACHES)
def test_selected_rows_continue_as_if_alone(llama, cache):
    prompts = [prompt_ids(4, seed=1), prompt_ids(12, seed=2), prompt_ids(7, seed=3)]
    session = llama.open(3, 64, cache)
    session.prefill(prompts)
    session.select([2, 1])
    logits = session.commit([[5, 6], [7, 8]])
    close(logits[0], uncached(llama, prompts[2] + [5, 6])[-2:])
    close(logits[1], uncached(llama, prompts[1] + [7, 8])[-2:])


def test_a_long_prefill_in_chunks_equals_one_prefill(llama, monkeypatch):
    prompts = [prompt_ids(length, seed=length) for length in (50, 3, 21)]
    whole = llama.open(3, 64).prefill(prompts)
    monkeypatch.setattr(passes, "PREFILL_CHUNK", 8)
    session = llama.open(3, 64)
    close(session.prefill(prompts), whole)
    assert session.lengths == [50, 3, 21]


def test_eager_attention_gives_the_logits_of_sdpa():
    sdpa, eager = (tiny_model("llama", attention=attention) for attention in ("sdpa", "eager"))
    found = []
    for model in (sdpa, eager):
        session = model.open(1, 64)
        session.prefill([prompt_ids(9)])
        found.append(session.denoise([[5, MASK, MASK, 7]]))
    close(found[1], found[0])


def test_the_head_is_computed_in_float32_under_bf16_weights(llama):
    network = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).to(torch.bfloat16)
    model = BlockModel(network, None, None, "bf16")
    hidden = torch.randn(5, 32, dtype=torch.bfloat16)
    logits = model.logits(hidden)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, hidden.float() @ network.lm_head.weight.float().T)


LONG_CONTEXT = """
import resource, torch
from tests.tiny import tiny_model, MASK

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.set_num_threads(1)
model = tiny_model("llama", max_position_embeddings=33_000)
model.open(1, 300).prefill([[3] * 256])
before = peak()
session = model.open(1, 32_100)
session.prefill([[3] * 32_000])
logits = session.denoise([[5] + [MASK] * 31])
session.commit([[5] * 32])
assert session.lengths == [32_032] and bool(logits.isfinite().all())
print(peak() - before)
"""


@pytest.mark.slow
def test_masks_stay_small_at_32k_context():
    # A dense 32k x 32k mask alone would be 1,024 MiB as bool, 4,096 MiB as float.
    done = subprocess.run([sys.executable, "-c", LONG_CONTEXT], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 512


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_the_short_mask_of_aligned_rows_equals_the_full_mask(context, monkeypatch):
    model = tiny_model("llama", spec={"context": context})
    masks: list[list[torch.Tensor]] = [[], []]
    short = Session._aligned
    body = model.body.forward
    for kind, aligned in enumerate((short, lambda *args: None)):
        monkeypatch.setattr(Session, "_aligned", aligned)

        def recorded(kind: int = kind, **kwargs):
            masks[kind].append(kwargs["attention_mask"].expand(len(kwargs["input_ids"]), -1, -1, -1))
            return body(**kwargs)

        monkeypatch.setattr(model.body, "forward", recorded)
        for rows in (1, 3):
            session = model.open(rows, 64)
            session.prefill([prompt_ids(9, seed=row) for row in range(rows)])
            session.denoise([[5, MASK, MASK, 7]] * rows)
            session.commit([[5, 6, 6, 7]] * rows)
            session.rollback([10] * rows)
            session.commit([[8]] * rows)
    assert len(masks[0]) == 8
    for one, other in zip(*masks, strict=True):
        assert torch.equal(one, other)
