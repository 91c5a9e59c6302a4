"""Draft backoff: drafts that AR does not agree with are given up for a while; the answer is AR's in any case."""

from itertools import pairwise

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.self_speculative import DraftBackoff
from nbdiff_engine.trace.events import Denoise, Verify
from tests.engine.answers import PROMPTS, ids
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def useless() -> nb.BlockModel:
    """Its random drafts are hardly ever AR's tokens."""
    return tiny_model("llama")


def forwards(model, **settings) -> list[int]:
    return [each.metrics.decode_forwards for each in nb.generate(model, PROMPTS, max_new_tokens=60, **settings)]


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}])
@pytest.mark.parametrize("draft_steps", [1, 3])
def test_useless_drafts_cost_little_more_than_ar(useless, draft_steps, sampling):
    how = {"strategy": "self_speculative", "block_size": 8, "draft_steps": draft_steps, **sampling}
    ar = forwards(useless, strategy="ar", **sampling)
    for mine, plain, without in zip(forwards(useless, **how), ar, forwards(useless, draft_backoff=False, **how)):
        assert mine <= 1.15 * plain
        assert without > 1.15 * plain
    assert ids(useless, PROMPTS, max_new_tokens=60, **how) == ids(
        useless, PROMPTS, strategy="ar", max_new_tokens=60, **sampling
    )


def test_pauses_grow_and_are_ar_steps(useless):
    events = list(nb.stream(useless, PROMPTS[0], strategy="self_speculative", block_size=8, max_new_tokens=80))
    at = [event.start for event in events if isinstance(event, Denoise)]
    pauses = [later - earlier - 1 for earlier, later in pairwise(at)]
    assert [each for each in pauses if each > 8] == [16, 32]
    steps = [event for event in events if isinstance(event, Verify) and event.stop == event.start + 1]
    assert len(steps) > 48
    assert all(len(event.fixed) == 1 and not event.rejected for event in steps)


def test_the_same_call_gives_the_same_events_alone_and_in_a_batch(useless):
    how = {"strategy": "self_speculative", "block_size": 8, "max_new_tokens": 50}
    assert passes(useless, PROMPTS[:3], **how) == passes(useless, PROMPTS[0], **how)


def passes(model, prompts, **settings) -> list[tuple]:
    """The passes of the first row, and how many drafts each verified."""
    events = [event for event in nb.stream(model, prompts, **settings) if event.row == 0]
    decoded = [event for event in events if isinstance(event, Denoise | Verify)]
    return [(type(each), each.start, each.stop, getattr(each, "accepted", None)) for each in decoded]


def test_good_drafts_are_never_given_up(golden_model, golden_cases):
    prompts = [case["prompt_ids"] for case in golden_cases[:12]]
    how = {"strategy": "self_speculative", "block_size": 16, "max_new_tokens": 96}
    with_backoff, without = (nb.generate(golden_model, prompts, draft_backoff=on, **how) for on in (True, False))
    assert [each.metrics.decode_forwards for each in with_backoff] == [each.metrics.decode_forwards for each in without]


def drafted(backoff: DraftBackoff, accepted: list[int]) -> list[int]:
    """The accepted tokens that were asked for, while drafts of these are made; -1 for an AR step."""
    found = []
    for each in accepted:
        found.append(each if backoff.drafts_next() else -1)
        if found[-1] >= 0:
            backoff.drafted(each)
    return found


def test_a_draft_that_pays_again_ends_the_backoff():
    backoff = DraftBackoff(1)
    assert drafted(backoff, [0] * 19) == [0, 0, *[-1] * 16, 0]  # two, a pause, one
    assert drafted(backoff, [5] * 33) == [*[-1] * 32, 5]  # the next pause is twice as long; then a good draft
    assert drafted(backoff, [0] * 6)[:4] == [0, 0, 0, 0]  # credit again
    assert drafted(backoff, [0] * 18) == [*[-1] * 15, 0, -1, -1]  # the first pause again


def test_credit_is_limited():
    backoff = DraftBackoff(1)
    drafted(backoff, [7] * 50)
    assert -1 in drafted(backoff, [0] * 10)
