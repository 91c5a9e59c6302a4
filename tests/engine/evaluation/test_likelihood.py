"""Likelihoods against plain causal passes, against sums over all masks, and against the training pass."""

import math
import random
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

import nbdiff_engine as nb
from nbdiff_engine.evaluation.likelihood import Block, Draw, ar_likelihood, denoise_losses, diffusion_likelihood, draws
from nbdiff_engine.model.passes import Pass
from tests.reference import causal, logits_of
from tests.tiny import FAST_DLLM, MASK, UNSHIFTED, prompt_ids, tiny_model
from tests.training.packs import answer, packed
from training.objective.noising import IGNORED, Noising, noise
from training.objective.objective import Objective

CLOSE = {"abs": 2e-4, "rel": 1e-5}


def pairs(*lengths):
    return [(prompt_ids(c, n), prompt_ids(x, 50 + n)) for n, (c, x) in enumerate(lengths)]


def plain_log_probs(model, context, continuation):
    ids = [*context, *continuation]
    log_probs = logits_of(model, ids, causal(len(ids))).log_softmax(-1)
    return [float(log_probs[i - 1, ids[i]]) for i in range(len(context), len(ids))]


def naive_bound(model, context, continuation, size):
    """The bound as the sum over all masks of every block; each term runs the network on the whole sequence."""
    spec = model.spec
    shift, ids = int(spec.token_shift), [*context, *continuation]
    absolute = spec.block_grid == "absolute"
    first = len(context) - len(context) % size if absolute else len(context)

    def block_of(at):
        return at if at < first and not absolute else first + (at - first) // size * size

    total = 0.0
    for start in range(first, len(ids), size):
        stop = start + size
        whole = [*ids[:stop], *[spec.mask_token_id] * (stop - len(ids))]
        blocks = torch.tensor([block_of(at) for at in range(stop)])
        allowed = blocks[None, :] <= blocks[:, None] if spec.context == "block_causal" else causal(stop)
        own = allowed.clone()
        own[start:, start:] = True
        maskable = list(range(max(start, len(context)), min(stop, len(ids))))
        if shift and start >= len(context):
            if start:
                clean = logits_of(model, ids[:start], allowed[:start, :start]).log_softmax(-1)
                total += float(clean[-1, ids[start]])
            maskable = maskable[1:]
        for number in range(1, len(maskable) + 1):
            for masked in combinations(maskable, number):
                noised = [spec.mask_token_id if at in masked else token for at, token in enumerate(whole)]
                log_probs = logits_of(model, noised, own).log_softmax(-1)
                loss = sum(float(log_probs[at - shift, ids[at]]) for at in masked)
                total += loss / number / math.comb(len(maskable), number)
    return total


def test_ar_log_probabilities_are_those_of_a_plain_causal_pass(any_model):
    given = pairs((5, 9), (1, 1), (12, 4))
    for (context, continuation), found in zip(given, ar_likelihood(any_model, given), strict=True):
        expected = plain_log_probs(any_model, context, continuation)
        assert found.token_log_probs == pytest.approx(expected, **CLOSE)
        assert found.log_likelihood == pytest.approx(math.fsum(expected), **CLOSE)


def test_choices_that_differ_in_their_last_token_share_a_row_and_score_as_alone(llama, monkeypatch):
    context, start = prompt_ids(9), prompt_ids(3, 1)
    given = [(context, [*start, last]) for last in (4, 5, 6)] + [(context[:8], [*context[8:], *start, 4])]
    alone = [ar_likelihood(llama, [pair])[0] for pair in given]
    rows_read, opened = [], llama.open
    monkeypatch.setattr(
        llama, "open", lambda rows, *rest, **more: rows_read.append(rows) or opened(rows, *rest, **more)
    )
    together = ar_likelihood(llama, given)
    assert rows_read == [2]
    for one, other in zip(alone, together, strict=True):
        assert one.token_log_probs == pytest.approx(other.token_log_probs, **CLOSE)
        assert one.greedy == other.greedy


def test_greedy_output_counts_as_greedy_and_changed_output_does_not(llama):
    context = prompt_ids(6)
    written = nb.generate(llama, context, strategy="ar", max_new_tokens=12).token_ids
    changed = [*written[:5], written[5] % 40 + 3, *written[6:]]
    found = ar_likelihood(llama, [(context, written), (context, changed)])
    assert [each.greedy for each in found] == [True, False]


def test_long_texts_in_chunks_score_as_in_one_pass(llama, monkeypatch):
    given = pairs((60, 100), (3, 80))
    whole = ar_likelihood(llama, given)
    monkeypatch.setattr("nbdiff_engine.evaluation.reading.PREFILL_CHUNK", 16)
    for module in ("likelihood", "reading"):
        monkeypatch.setattr(f"nbdiff_engine.evaluation.{module}.MAX_LOGITS", 2 * 7 * llama.vocab_size)
    for one, other in zip(whole, ar_likelihood(llama, given), strict=True):
        assert one.token_log_probs == pytest.approx(other.token_log_probs, **CLOSE)
    bound = diffusion_likelihood(llama, given, block_size=4)
    monkeypatch.undo()
    for one, other in zip(bound, diffusion_likelihood(llama, given, block_size=4), strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, **CLOSE)


@pytest.mark.parametrize("block_size", [1, 2])
def test_blocks_of_one_and_two_are_exact(any_model, block_size):
    given = pairs((5, 9), (4, 6))
    ar = ar_likelihood(any_model, given)
    bound = diffusion_likelihood(any_model, given, block_size=block_size, samples=1)
    assert [each.standard_error for each in bound] == [0.0, 0.0]
    if block_size == 1:
        for one, other in zip(ar, bound, strict=True):
            assert one.log_likelihood == pytest.approx(other.log_likelihood, **CLOSE)
    else:
        for pair, found in zip(given, bound, strict=True):
            assert found.log_likelihood == pytest.approx(naive_bound(any_model, *pair, 2), **CLOSE)


@pytest.mark.parametrize("block_size", [3, 4])
@pytest.mark.parametrize("fields", [{}, {"context": "block_causal"}, FAST_DLLM, UNSHIFTED], ids=str)
def test_small_blocks_give_the_exact_sum_over_all_masks(fields, block_size):
    model = tiny_model("llama", spec=fields)
    given = pairs((5, 9), (4, 8), (8, 1))
    bound = diffusion_likelihood(model, given, block_size=block_size, samples=16)
    for pair, found in zip(given, bound, strict=True):
        assert found.standard_error == 0
        assert found.log_likelihood == pytest.approx(naive_bound(model, *pair, block_size), abs=1e-3, rel=1e-5)


@pytest.mark.parametrize("fields", [{}, UNSHIFTED], ids=str)
def test_the_mean_of_many_samples_is_the_sum_over_all_masks_within_its_standard_error(fields):
    model = tiny_model("llama", spec=fields)
    given = pairs((5, 8))
    exact = diffusion_likelihood(model, given, block_size=6, samples=63)[0]
    estimates = [diffusion_likelihood(model, given, block_size=6, samples=12, seed=seed)[0] for seed in range(200)]
    assert exact.standard_error == 0
    found = [each.log_likelihood for each in estimates]
    spread = torch.tensor(found).std().item()
    assert spread > 0
    assert abs(sum(found) / 200 - exact.log_likelihood) < 3 * spread / math.sqrt(200)
    reported = math.sqrt(sum(each.standard_error**2 for each in estimates) / 200)
    assert 0.8 < reported / spread < 1.25


def test_more_samples_give_a_smaller_standard_error(llama):
    given = pairs((5, 32))
    few, many = (
        diffusion_likelihood(llama, given, block_size=16, samples=samples)[0].standard_error for samples in (8, 512)
    )
    assert many < few / 4


def test_one_sample_gives_no_standard_error(llama):
    assert diffusion_likelihood(llama, pairs((5, 9)), block_size=8, samples=1)[0].standard_error is None


def test_draws_mask_every_count_and_every_token_equally_often():
    found = draws(range(1, 15), 8400, random.Random(0))
    counts = [len(draw.masked) for draw in found]
    assert {count: counts.count(count) for count in range(1, 15)} == dict.fromkeys(range(1, 15), 600)
    # A token's share of the weights is 1: each token's loss counts once.
    shares = [sum(draw.weight for draw in found if at in draw.masked) for at in range(1, 15)]
    assert shares == pytest.approx([1.0] * 14, rel=0.1)
    assert sum(shares) == pytest.approx(14)


@pytest.mark.parametrize("fields", [{}, FAST_DLLM, UNSHIFTED], ids=str)
@pytest.mark.parametrize("batch_size", [5, 64])
def test_a_batch_scores_as_its_rows_alone(fields, batch_size):
    model = tiny_model("llama", spec=fields)
    given = pairs((5, 19), (4, 3), (13, 40), (1, 9))
    together = diffusion_likelihood(model, given, block_size=8, samples=9, batch_size=batch_size)
    for pair, found in zip(given, together, strict=True):
        alone = diffusion_likelihood(model, [pair], block_size=8, samples=9, batch_size=3)[0]
        assert found.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-3, rel=1e-5)
        assert found.standard_error == pytest.approx(alone.standard_error, abs=1e-3, rel=1e-3)


def test_the_same_seed_gives_the_same_bound_and_another_seed_does_not(llama):
    given = pairs((5, 19))
    one, again, other = (diffusion_likelihood(llama, given, samples=4, seed=seed)[0] for seed in (1, 1, 2))
    assert one == again
    assert one.log_likelihood != other.log_likelihood


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_a_masked_block_scores_as_in_the_training_pass(context):
    """Train-inference consistency: the loss of a masked block equals that of the noised half of the training pass."""
    model = tiny_model("llama", spec={"context": context})
    document = answer(6, 24)
    batch = noise(packed(document), Noising(8, MASK, at_least_one=True), torch.Generator().manual_seed(3), context)
    objective = Objective(model.network, context)
    with torch.inference_mode():
        hidden = objective.body(
            input_ids=batch.ids,
            attention_mask=objective.mask(batch, None),
            position_ids=batch.tokens.position,
            use_cache=False,
        ).last_hidden_state[0]
        logits = model.logits(hidden)
        logits[:, MASK] = -torch.inf  # decoding excludes MASK, the training loss does not
    for first in range(0, 24, 8):
        targets = batch.mdm_targets[0, first : first + 8]
        expected = F.cross_entropy(logits[first : first + 8], targets, ignore_index=IGNORED, reduction="sum")
        masked = tuple((batch.ids[0, first : first + 8] == MASK).nonzero()[:, 0].tolist())
        session = model.open(1, 64)
        session.run([Pass(document.ids[:6], 0, False, 1, [])])
        for start in range(6, 6 + first, 8):
            session.commit([document.ids[start : start + 8]])
        block = Block(6 + first, list(document.ids[6 + first : 14 + first]), [])
        assert denoise_losses(session, [(block, Draw(masked, 1.0, 0))]) == pytest.approx([float(expected)], **CLOSE)


def test_texts_and_settings_that_cannot_be_scored_are_refused(llama):
    with pytest.raises(nb.PromptError, match="MASK token"):
        ar_likelihood(llama, [([2, 3], [4, MASK])])
    with pytest.raises(nb.PromptError, match="no token"):
        ar_likelihood(llama, [([], [4])])
    with pytest.raises(nb.PromptError, match="context of 256"):
        diffusion_likelihood(llama, [(prompt_ids(200), prompt_ids(57))])
    with pytest.raises(nb.PromptError, match="ids 0 to 47"):
        ar_likelihood(llama, [([2], [48])])
    with pytest.raises(nb.SettingError, match="samples is 0"):
        diffusion_likelihood(llama, pairs((2, 2)), samples=0)
    with pytest.raises(nb.SettingError, match="batch_size is 0"):
        ar_likelihood(llama, pairs((2, 2)), batch_size=0)
    with pytest.raises(nb.SettingError, match="no AR pass"):
        ar_likelihood(tiny_model("llama", spec=UNSHIFTED), pairs((2, 2)))
    plain = nb.BlockModel(llama.network, None, None, "plain")
    with pytest.raises(nb.SettingError, match="diffusion bound needs"):
        diffusion_likelihood(plain, pairs((2, 2)))


def test_the_context_length_shortens_the_last_block(llama):
    given = [(prompt_ids(250), prompt_ids(6, 1))]
    found = diffusion_likelihood(llama, given, block_size=8, samples=31)[0]
    assert found.standard_error == 0
    assert math.isfinite(found.log_likelihood)
