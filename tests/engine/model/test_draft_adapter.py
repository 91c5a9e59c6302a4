"""Gated passes: the adapter acts at noise rows alone, and clean rows are the base's, bit by bit."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from nbdiff_engine import BlockModel, CheckpointError
from nbdiff_engine.model.draft_adapter import random_id
from nbdiff_engine.model.network_check import check_network
from nbdiff_engine.model.passes import Pass
from tests.draft_adapters import tiny_drafter
from tests.tiny import FAMILIES, FUSED, MASK, VOCABULARY, prompt_ids, tiny_model

UNKNOWN = VOCABULARY  # the id that stands for noise: one past the vocabulary
KINDS = [*FAMILIES, *(f"{family} fused" for family in FUSED)]
CONTEXT = prompt_ids(9)
CLEAN = [5, 17, 30]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[BlockModel, BlockModel]:
    """A base, and the same with an adapter."""
    family, *fused = request.param.split()
    return tiny_drafter(family, fused=bool(fused))


def after(model: BlockModel, *contexts: list[int]):
    session = model.open(len(contexts), 64)
    session.prefill(contexts)
    return session


def mixed(start: int, noise: int = UNKNOWN) -> Pass:
    """Three clean tokens, with noise after the first and after the last; the second group knows one of its tokens."""
    groups = [(1, [noise] * 4), (3, [noise, 8, noise])]
    return Pass.mixed(CLEAN, start, groups, range(10))


def test_clean_rows_are_the_bases_bit_by_bit(pair):
    base, drafter = pair
    plain = after(base, CONTEXT).run([mixed(9, noise=3)])
    session = after(drafter, CONTEXT)
    drafted = session.run([mixed(9)])
    assert torch.equal(plain[:3], drafted[:3])
    for row in range(3, 10):  # while the adapter changes every noise row
        assert not torch.allclose(plain[row], drafted[row], atol=0.05)
    assert session.lengths == [12]  # the clean tokens are kept, and are what AR would have read
    following = after(base, CONTEXT + CLEAN).commit([[7, 9]])
    torch.testing.assert_close(session.commit([[7, 9]]), following, rtol=0, atol=1e-5)


def test_a_pass_with_several_groups_equals_its_parts(pair):
    _, drafter = pair
    whole = after(drafter, CONTEXT).run([mixed(9)])
    first, second = after(drafter, CONTEXT), after(drafter, CONTEXT)
    clean = first.run([Pass.commit(CLEAN, 9, range(3))])
    one = second.run([Pass.mixed(CLEAN[:1], 9, [(1, [UNKNOWN] * 4)], range(1, 5))])
    # After the last one: nothing clean is read in the pass.
    last = first.run([Pass.mixed([], 12, [(0, [UNKNOWN, 8, UNKNOWN])], range(3))])
    # Sums of other widths are rounded in another order: up to 1.0014e-5 was seen, on one kind of CPU.
    torch.testing.assert_close(whole, torch.cat([clean, one, last]), rtol=0, atol=5e-5)


def test_a_leaf_is_a_clean_row_that_sees_what_is_before_its_place(pair):
    """Two candidates at one place and one after the clean tokens, with noise that begins at the same places."""
    base, drafter = pair
    leaves, groups = [(1, 20), (1, 21), (3, 22)], [(1, [UNKNOWN] * 2), (3, [UNKNOWN])]
    session = after(drafter, CONTEXT)
    whole = session.run([Pass.mixed(CLEAN, 9, groups, range(9), leaves)])
    for row, (at, token) in enumerate(leaves, start=3):
        alone = after(base, CONTEXT + CLEAN[:at]).commit([[token]])[0, 0]
        torch.testing.assert_close(whole[row], alone, rtol=0, atol=5e-5)
    without = after(drafter, CONTEXT).run([Pass.mixed(CLEAN, 9, groups, range(6))])
    torch.testing.assert_close(whole[[0, 1, 2, 6, 7, 8]], without, rtol=0, atol=5e-5)
    assert session.lengths == [12]
    # The second candidate is accepted: the next pass has it as context, and not the clean tokens from its place on.
    kept = session.run([replace(Pass.commit([23, 24], 11, range(2)), moved_from=9 + 3 + 1)])
    expected = after(base, [*CONTEXT, CLEAN[0], 21]).commit([[23, 24]])[0]
    torch.testing.assert_close(kept, expected, rtol=0, atol=5e-5)
    assert session.lengths == [13]


def test_noise_rows_equal_those_of_the_merged_network_over_the_bases_context(pair):
    """Written with transformers' own cache and peft's arithmetic: keys of the base, then a network with the sum of
    weights."""
    base, drafter = pair
    found = after(drafter, CONTEXT).run([Pass.mixed(CLEAN, 9, [(3, [UNKNOWN, 8, UNKNOWN])], range(3, 6))])
    torch.testing.assert_close(found, noise_logits(base, drafter, CONTEXT + CLEAN, [None, 8, None]), rtol=0, atol=1e-4)


@torch.no_grad()
def noise_logits(base: BlockModel, drafter: BlockModel, clean: list[int], noise: list[int | None], causal=False):
    cache = DynamicCache()
    stock = drafter.network
    stock(torch.tensor([clean]), past_key_values=cache, use_cache=True)
    changed = copy.deepcopy(stock)
    for layer, twin in zip(stock.modules(), changed.modules(), strict=True):
        if layer in drafter.draft.changes:
            change = drafter.draft.changes[layer]
            twin.weight.add_(change.b_OR @ change.a_RD)
    embed = changed.get_input_embeddings()
    read = torch.stack([drafter.draft.mask_D if each is None else embed(torch.tensor(each)) for each in noise])[None]
    width = len(noise)
    seen = torch.ones(1, 1, width, len(clean) + width, dtype=torch.bool)
    if causal:
        seen[..., len(clean) :] = torch.ones(width, width).tril().bool()
    positions = torch.arange(len(clean), len(clean) + width)[None]
    out = changed(
        inputs_embeds=read, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return out.logits[0].float()


def test_a_denoise_pass_reads_its_first_token_through_the_base(pair):
    base, drafter = pair
    block = [5, UNKNOWN, 8, UNKNOWN]
    session = after(drafter, CONTEXT)
    found = session.denoise([block])[0]
    torch.testing.assert_close(found[0], after(base, CONTEXT).commit([[5]])[0, 0], rtol=0, atol=1e-5)
    expected = noise_logits(base, drafter, [*CONTEXT, 5], [None, 8, None])
    torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-4)
    assert session.lengths == [9]
    torch.testing.assert_close(session.denoise([block])[0], found, rtol=0, atol=1e-5)


def test_rows_of_different_phases_and_lengths_share_a_forward(pair):
    """A row that drafts after two anchors, one that denoises, one that commits, one that waits, a short one, and one
    with candidates."""
    _, drafter = pair
    contexts = [prompt_ids(length, seed=length) for length in (9, 4, 13, 6, 2, 7)]
    passes = [
        mixed(9),
        Pass.denoise([5, UNKNOWN, UNKNOWN], 4, range(3)),
        Pass.commit([7, 8], 13),
        Pass.nothing(6),
        Pass.mixed([3], 2, [(1, [UNKNOWN])], [1]),
        Pass.mixed([3, 4], 7, [(1, [UNKNOWN])], range(5), [(1, 9), (2, 10)]),
    ]
    together = after(drafter, *contexts)
    rows = together.run(passes)
    alone = [after(drafter, context).run([each]) for context, each in zip(contexts, passes) if each.tokens]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=0, atol=1e-5)
    assert together.lengths == [12, 4, 15, 6, 3, 9]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_noise_that_is_causal(family):
    base, drafter = tiny_drafter(family, noise_attention="causal", targets=["o_proj"])
    noise = [UNKNOWN, 8, UNKNOWN]
    found = after(drafter, CONTEXT).run([Pass.mixed([5], 9, [(1, noise)], range(1, 4))])
    expected = noise_logits(base, drafter, [*CONTEXT, 5], [None, 8, None], causal=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    shorter = after(drafter, CONTEXT).run([Pass.mixed([5], 9, [(1, noise[:1])], [1])])
    torch.testing.assert_close(found[:1], shorter, rtol=0, atol=1e-5)


def test_uniform_noise_is_the_same_ids_at_a_position_in_every_batch():
    ids = [random_id(0, position, 10) for position in range(200)]
    assert set(ids) == set(range(1, 10))
    assert ids != [random_id(1, position, 10) for position in range(200)]
    base, drafter = tiny_drafter("llama", noise="uniform")
    assert drafter.draft.mask_D is None
    noise = [random_id(0, position, VOCABULARY) for position in (10, 11)]
    found = after(drafter, CONTEXT).run([Pass.mixed([5], 9, [(1, [UNKNOWN] * 2)], range(3))])
    torch.testing.assert_close(found[1:], noise_logits(base, drafter, [*CONTEXT, 5], noise), rtol=0, atol=1e-4)
    other = after(drafter, CONTEXT)
    other.noise_seeds = [1]
    assert not torch.equal(other.run([Pass.mixed([5], 9, [(1, [UNKNOWN] * 2)], range(3))])[1:], found[1:])


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_windows_are_those_of_positions_and_not_of_slots(family):
    """Of several groups at the same positions, the later ones are in later slots."""
    shape = {"sliding_window": 6}
    if family == "gemma3_text":
        shape["layer_types"] = ["sliding_attention", "full_attention"]
    _, drafter = tiny_drafter(family, shape=shape)
    whole = after(drafter, CONTEXT).run([mixed(9)])
    session = after(drafter, CONTEXT)
    parts = [session.run([Pass.mixed(CLEAN[:1], 9, [(1, [UNKNOWN] * 4)], range(1, 5))])]
    session.run([Pass.commit(CLEAN[1:], 10, [])])
    parts.append(session.run([Pass.mixed([], 12, [(0, [UNKNOWN, 8, UNKNOWN])], range(3))]))
    torch.testing.assert_close(whole[3:], torch.cat(parts), rtol=0, atol=1e-5)
    batch = after(drafter, CONTEXT, CONTEXT[:4]).run([mixed(9), mixed(4)])
    torch.testing.assert_close(batch[:10], whole, rtol=0, atol=1e-5)


def test_a_layer_that_reads_other_rows_is_refused():
    """As one of several experts does, which read the rows that are sent to them."""
    _, drafter = tiny_drafter("gemma")
    layer = drafter.network.model.layers[0].mlp
    forward = layer.forward
    layer.forward = lambda x: torch.cat([forward(x[:, :1]), forward(x[:, 1:])], dim=1)
    with pytest.raises(CheckpointError, match="a layer with LoRA reads 1 rows of a forward of 3"):
        check_network(drafter)


def test_groups_without_an_adapter_are_blocks_of_the_papers_way():
    """A group that repeats its anchor is the denoise pass of a block that begins there."""
    model = tiny_model("llama", fused=True)
    block = [CLEAN[-1], MASK, MASK, MASK]
    whole = after(model, CONTEXT).run([Pass.mixed(CLEAN, 9, [(2, block)], range(7))])
    session = after(model, CONTEXT)
    clean = session.run([Pass.commit(CLEAN, 9, range(3))])
    torch.testing.assert_close(whole[:3], clean, rtol=0, atol=1e-5)
    session.rollback([11])
    torch.testing.assert_close(whole[3:], session.denoise([block])[0], rtol=0, atol=1e-5)
