"""Attention masks, dense and as a FlexAttention BlockMask, and what the noised and the clean half depend on."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from nbdiff_engine.model.attention import (
    PADDING,
    Tokens,
    additive,
    blocks,
    dense_mask,
    flex_mask,
)
from nbdiff_engine.model.kv_cache import SlotCache
from tests.growing_cache import GrowingCache
from tests.tiny import MASK, prompt_ids, with_context

LENGTH, START, BLOCK = 11, 3, 4


def picture(mask: torch.Tensor) -> list[str]:
    return ["".join(".#"[cell] for cell in row) for row in mask.int().tolist()]


def training_tokens(position_BL: torch.Tensor, block_BL: torch.Tensor, document_BL: torch.Tensor) -> Tokens:
    """The 2L tokens `[noised ; clean]` of the parallel training pass (NBDiff, section 3.2)."""
    noised = torch.ones_like(position_BL, dtype=torch.bool)
    return Tokens.joined(
        Tokens(noised, position_BL, block_BL, document_BL),
        Tokens(~noised, position_BL, block_BL, document_BL),
    )


def layout(document: list[int] | None = None) -> Tokens:
    position = torch.arange(LENGTH)[None]
    ids = torch.tensor([document or [0] * LENGTH])
    return training_tokens(position, blocks(position, START, BLOCK), ids)


def test_the_context_causal_training_mask_is_that_of_the_paper():
    tokens = layout()
    mask = dense_mask(tokens, tokens, "token_causal")[0, 0]
    assert picture(mask[:LENGTH, :LENGTH]) == [  # noised -> noised: inside the block; a prompt token only itself
        "#..........",
        ".#.........",
        "..#........",
        "...####....",
        "...####....",
        "...####....",
        "...####....",
        ".......####",
        ".......####",
        ".......####",
        ".......####",
    ]
    assert picture(mask[START:LENGTH, LENGTH:]) == [  # noised -> clean: strictly earlier blocks
        *["###........"] * 4,
        *["#######...."] * 4,
    ]
    assert not mask[LENGTH:, :LENGTH].any()  # clean -> noised: never
    assert torch.equal(mask[LENGTH:, LENGTH:], torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())


def test_block_causal_context_is_bidirectional_inside_committed_blocks_and_causal_in_the_prompt():
    tokens = layout()
    clean = dense_mask(tokens, tokens, "block_causal")[0, 0][LENGTH:, LENGTH:]
    assert picture(clean) == [
        "#..........",
        "##.........",
        "###........",
        *["#######...."] * 4,
        *["###########"] * 4,
    ]


def test_no_token_attends_to_another_document_or_to_padding():
    document = [0] * 5 + [1] * 4 + [PADDING] * 2
    tokens = layout(document)
    mask = dense_mask(tokens, tokens, "token_causal")[0, 0]
    for query in range(2 * LENGTH):
        for key in range(2 * LENGTH):
            if document[query % LENGTH] != document[key % LENGTH] or document[key % LENGTH] == PADDING:
                assert not mask[query, key]


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_the_flex_attention_mask_equals_the_dense_mask(context):
    tokens = layout([0] * 5 + [1] * 4 + [PADDING] * 2)
    dense = dense_mask(tokens, tokens, context)
    flex = flex_mask(tokens, tokens, context)
    # create_mask evaluates the predicate of the BlockMask for every pair.
    assert torch.equal(create_mask(flex.mask_mod, 1, 1, 2 * LENGTH, 2 * LENGTH, device="cpu"), dense)


def test_additive_mask_is_finite_and_zero_where_allowed():
    mask = torch.tensor([[True, False]])
    assert additive(mask, torch.bfloat16).tolist() == [[0.0, torch.finfo(torch.bfloat16).min]]


@torch.inference_mode()
def parallel_pass(model, clean: list[int], noised: list[int], start: int, block_size: int, context: str):
    """Logits of the noised and of the clean half of one `[noised ; clean]` forward."""
    position = torch.arange(len(clean))[None]
    tokens = training_tokens(position, blocks(position, start, block_size), torch.zeros_like(position))
    logits = model.network(
        input_ids=torch.tensor([noised + clean]),
        attention_mask=dense_mask(tokens, tokens, context),
        position_ids=torch.cat([position, position], dim=1),
        use_cache=False,
    ).logits[0]
    return logits[: len(clean)], logits[len(clean) :]


def noise(clean: list[int], start: int, block_size: int, seed: int) -> list[int]:
    """Mask each token of a block with probability 1/2, except the first token."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(clean), generator=generator).tolist()
    return [
        MASK if i >= start and (i - start) % block_size and draw < 0.5 else token
        for i, (token, draw) in enumerate(zip(clean, draws))
    ]


def test_the_clean_half_equals_the_causal_forward_for_any_noise(any_model):
    clean = prompt_ids(30)
    plain = any_model.network(input_ids=torch.tensor([clean]), use_cache=False).logits[0]
    for seed in (1, 2):
        _, half = parallel_pass(any_model, clean, noise(clean, 6, 8, seed), 6, 8, "token_causal")
        torch.testing.assert_close(half, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_a_noised_block_does_not_depend_on_its_own_or_later_clean_blocks(any_model, context):
    start, block_size = 6, 8
    clean = prompt_ids(30)
    noised = noise(clean, start, block_size, 1)
    for block in (0, 1, 2):
        first = start + block * block_size
        last = min(first + block_size, len(clean))
        changed = clean[:first] + [token % 40 + 3 for token in clean[first:]]
        before, _ = parallel_pass(any_model, clean, noised, start, block_size, context)
        after, _ = parallel_pass(any_model, changed, noised, start, block_size, context)
        assert torch.equal(before[first:last], after[first:last])


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
@pytest.mark.parametrize("cache", [SlotCache, GrowingCache])
def test_a_cached_denoise_step_equals_the_noised_half_of_the_training_pass(any_model, context, cache):
    model = with_context(any_model, context)
    start, block_size = 6, 8
    clean = prompt_ids(30)
    noised = noise(clean, start, block_size, 1)
    trained, _ = parallel_pass(model, clean, noised, start, block_size, context)
    session = model.open(1, 64, cache)
    session.prefill([clean[:start]])
    for first in range(start, len(clean), block_size):
        last = min(first + block_size, len(clean))
        for _ in range(2):  # twice: a denoise pass does not change the cache
            cached = session.denoise([noised[first:last]])[0]
            torch.testing.assert_close(cached, trained[first:last], rtol=1e-4, atol=1e-4)
        session.commit([clean[first:last]])
