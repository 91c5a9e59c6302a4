"""The objective: invariants of the method, a naive computation of both losses, and a golden loss."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask

from nbdiff_engine.model.attention import dense_mask, flex_mask
from tests.tiny import FAMILIES, MASK, tiny_model
from tests.training.packs import EOS, answer, packed
from training.objective import objective as objective_module
from training.objective.noising import IGNORED, Noising, noise
from training.objective.objective import Objective


def batch_of(rows, block_size=8, seed=0, context="token_causal", **options):
    settings = {"ending_ids": frozenset([EOS]), **options}
    return noise(rows, Noising(block_size, MASK, **settings), torch.Generator().manual_seed(seed), context)


def rows():
    return packed(answer(5, 20), answer(7, 17, seed=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_at_block_size_1_the_loss_is_the_ar_loss_of_plain_causal_passes(family):
    network = tiny_model(family).network
    losses = Objective(network)(batch_of(rows(), block_size=1))
    expected = 0.0
    for document in (answer(5, 20), answer(7, 17, seed=1)):
        ids = torch.tensor([document.ids])
        logits = network(input_ids=ids, use_cache=False).logits[0].float()
        start, stop = document.turns[0]
        expected += F.cross_entropy(logits[start - 1 : stop - 1], ids[0, start:stop], reduction="sum")
    assert losses.mdm_count == 0
    assert losses.mdm_sum.item() == 0.0
    torch.testing.assert_close(losses.ar_sum, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ar_loss_does_not_depend_on_blocks_or_noise(family):
    objective = Objective(tiny_model(family).network)
    plain = objective(batch_of(rows(), block_size=1)).ar_sum
    for block_size in (2, 8, 32):
        for seed in (0, 1):
            noised = objective(batch_of(rows(), block_size, seed)).ar_sum
            torch.testing.assert_close(noised, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_a_cached_denoise_step_has_the_loss_of_the_noised_half(family, context):
    """Training and decoding compute the same, including the filled last block."""
    model = tiny_model(family, spec={"context": context})
    document = answer(6, 21)
    batch = batch_of(packed(document, length=27), 8, 3, context)
    trained = Objective(model.network, context)(batch)
    session = model.open(1, 64)
    session.prefill([document.ids[:6]])
    n, expected = batch.mdm_targets.shape[1], 0.0
    for first in range(0, n, 8):
        block = batch.ids[0, first : first + 8].tolist()
        logits = session.denoise([block])[0]
        expected += F.cross_entropy(
            logits, batch.mdm_targets[0, first : first + 8], ignore_index=IGNORED, reduction="sum"
        )
        session.commit([list(document.ids[6 + first : 6 + first + 8])])
    torch.testing.assert_close(trained.mdm_sum, expected, rtol=1e-4, atol=1e-4)


def test_both_losses_equal_cross_entropy_sums_over_full_logits():
    network = tiny_model("llama").network
    batch = batch_of(rows())
    losses = Objective(network)(batch)
    mask = dense_mask(batch.tokens, batch.tokens, "token_causal")
    mask |= torch.eye(mask.shape[-1], dtype=torch.bool)
    logits = network(
        input_ids=batch.ids, attention_mask=mask, position_ids=batch.tokens.position, use_cache=False
    ).logits.float()
    n = batch.mdm_targets.shape[1]
    for part, targets, got in (
        (logits[:, :n], batch.mdm_targets, losses.mdm_sum),
        (logits[:, n:], batch.ar_targets, losses.ar_sum),
    ):
        expected = F.cross_entropy(part.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_the_chunk_size_changes_neither_loss_nor_gradient(monkeypatch):
    network = tiny_model("qwen3").network
    batch = batch_of(rows())
    found = []
    for limit in (2**24, 48 * 5):  # all positions at once, and five at a time
        monkeypatch.setattr(objective_module, "CHUNK_BYTES", 4 * limit)
        network.zero_grad()
        losses = Objective(network)(batch)
        (losses.mdm_sum + 0.5 * losses.ar_sum).backward()
        found.append((losses.mdm_sum.item(), [each.grad.clone() for each in network.parameters()]))
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_logits_are_computed_for_targets_only_and_in_chunks(monkeypatch):
    seen = []
    network = tiny_model("llama").network
    network.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape[0]))
    monkeypatch.setattr(objective_module, "CHUNK_BYTES", 4 * 48 * 10 + 100)
    batch = batch_of(rows())
    Objective(network)(batch)
    scored = int((batch.mdm_targets != IGNORED).sum() + (batch.ar_targets != IGNORED).sum())
    assert max(seen) == 10
    assert sum(seen) == scored < batch.ids.numel()


@pytest.mark.parametrize("attention", ["sdpa", "nbdiff_documents"])
def test_fill_counts_at_most_as_much_as_its_answer(attention):
    """Answers of 2 and 3 tokens in blocks of 32: their 59 fill tokens weigh 5."""
    network = tiny_model("llama").network
    network.set_attn_implementation(attention)
    batch = batch_of(packed(answer(6, 2), answer(5, 3, seed=1)), block_size=32, at_least_one=True)
    losses = Objective(network)(batch)
    assert losses.end_count >= losses.mdm_count - 1 > 10
    assert losses.mdm_weight < 1 + 2 + 5 < losses.mdm_count  # the masked tokens of the answers and all fill
    mask = dense_mask(batch.tokens, batch.tokens, "token_causal")
    mask |= torch.eye(mask.shape[-1], dtype=torch.bool)
    network.set_attn_implementation("sdpa")
    logits = (
        network(input_ids=batch.ids, attention_mask=mask, position_ids=batch.tokens.position, use_cache=False)
        .logits[0, :64]
        .float()
    )
    each = F.cross_entropy(logits, batch.mdm_targets[0], ignore_index=IGNORED, reduction="none")
    weights = torch.tensor([1.0] + [2 / 30] * 30 + [1.0] + [1.0] * 2 + [3 / 29] * 29 + [1.0])
    torch.testing.assert_close(losses.mdm_sum, (each * weights).sum(), rtol=1e-4, atol=1e-4)


def test_without_fill_or_with_less_fill_than_answer_no_target_is_weighted():
    for documents in ((answer(5, 24),), (answer(5, 20), answer(7, 17, seed=1))):
        batch = batch_of(packed(*documents))
        assert batch.mdm_weights is None
        losses = Objective(tiny_model("llama").network)(batch)
        assert losses.mdm_weight == losses.mdm_count


def test_annealing_makes_later_keys_of_a_block_visible_one_by_one():
    batch = batch_of(rows())
    closed = torch.zeros(batch.ids.shape, dtype=torch.bool)
    causal = dense_mask(batch.tokens, batch.tokens, "token_causal", closed)[0, 0]
    whole = dense_mask(batch.tokens, batch.tokens, "token_causal")[0, 0]
    assert torch.equal(causal, whole & (batch.tokens.position[0][None, :] <= batch.tokens.position[0][:, None]))
    assert torch.equal(dense_mask(batch.tokens, batch.tokens, "token_causal", ~closed)[0, 0], whole)
    some = torch.rand(closed.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    flex = flex_mask(batch.tokens, batch.tokens, "token_causal", some)
    size = batch.ids.shape[1]
    assert torch.equal(
        create_mask(flex.mask_mod, 1, 1, size, size, device="cpu"),
        dense_mask(batch.tokens, batch.tokens, "token_causal", some),
    )


def test_padding_gives_no_nan():
    network = tiny_model("llama").network
    losses = Objective(network)(batch_of(packed(answer(3, 6), length=40)))
    (losses.mdm_sum + losses.ar_sum).backward()
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


def test_the_loss_equals_the_golden_loss():
    """A refactor must not change it. Two rows, seed 0, float32, one thread."""
    losses = Objective(tiny_model("llama").network)(batch_of(rows()))
    assert (losses.mdm_count, losses.ar_count) == (15, 37)
    assert losses.mdm_sum.item() == pytest.approx(104.687988, rel=1e-5)
    assert losses.ar_sum.item() == pytest.approx(241.312347, rel=1e-5)


@torch.no_grad()
def test_flex_attention_gives_the_losses_of_the_dense_mask():
    """CUDA trains with it. On a CPU only its forward runs; here it is not compiled."""
    network = tiny_model("llama", head_dim=16).network
    batch = batch_of(rows())
    dense = Objective(network)(batch)
    network.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        flex = Objective(network)(batch)
    torch.testing.assert_close(flex.mdm_sum, dense.mdm_sum, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flex.ar_sum, dense.ar_sum, rtol=1e-4, atol=1e-4)
