"""The verdict: counted work first, and times only as far as one run can show them."""

import dataclasses
import random

import pytest

import nbdiff_engine as nb
from nbdiff_engine.trace.metrics import Metrics
from playground.race.forward_times import Forward, forwards_of, same_work, time_of
from playground.race.recorded_race import recorded_race
from playground.race.verdict import Entry, entries, verdict


def entry(
    name: str,
    strategy: str,
    forwards: int,
    ms: float = 10.0,
    width: int = 16,
    tokens: tuple[int, ...] = (1, 2, 3),
    jitter: float = 0.0,
    length: int = 21,
    seed: int = 0,
) -> Entry:
    noise = random.Random(seed)
    kind = "commit" if strategy == "ar" else "denoise"
    each = [Forward(kind, width, ms / 1000 * (1 + jitter * noise.random())) for _ in range(forwards)]
    metrics = Metrics(
        output_tokens=length,
        prefill_seconds=0.0,
        decode_seconds=sum(forward.seconds for forward in each),
        decode_forwards=forwards,
        denoise_forwards=forwards,
        commit_forwards=0,
        tokens_per_forward=(length - 1) / forwards if forwards else None,
        tokens_per_second=None,
        seconds_to_first_token=0.0,
        seconds_to_first_block=0.0,
    )
    return Entry(name, strategy, metrics, tokens, tuple(each))


AR = entry("AR", "ar", 20, 10.0, 1)


def test_counted_work_comes_first_then_the_text_then_the_time() -> None:
    text = verdict([AR, entry("Self-speculation", "self_speculative", 5, 13.0)])
    assert text == (
        "Self-speculation needed 4.0x fewer forwards than AR, 5 instead of 20, with the same text as AR. By the median "
        "forward it was about 3.1x faster: a forward of Self-speculation took 1.3x the time of one of AR."
    )


def test_a_text_that_differs_from_ar_is_said_beside_the_work() -> None:
    text = verdict([AR, entry("Block diffusion", "block_diffusion", 5, 20.0, tokens=(1, 2))])
    assert text.startswith("Block diffusion needed 4.0x fewer forwards than AR, 5 instead of 20, but the text differs")
    assert "2.0x faster per token" in text


def test_answers_of_different_lengths_are_compared_per_token() -> None:
    text = verdict([AR, entry("Block diffusion", "block_diffusion", 5, 20.0, tokens=(1, 2), length=11)])
    assert text.startswith("Block diffusion needed 2.0x fewer forwards per token than AR, but the text differs from AR")


@pytest.mark.parametrize(("ar_run", "is_rounding"), [(("m", 0.0), True), (("m", 0.7), False), (None, False)])
def test_the_reason_is_given_where_only_rounding_can_change_the_text(ar_run: tuple | None, is_rounding: bool) -> None:
    drafted = entry("Self-speculation", "self_speculative", 5, tokens=(1, 2))
    text = verdict([dataclasses.replace(AR, ar_run=("m", 0.0)), dataclasses.replace(drafted, ar_run=ar_run)])
    assert "but the text differs from AR's." in text
    assert ("In bfloat16, forwards of different widths round differently" in text) == is_rounding


def test_drafts_and_ar_of_one_request_must_give_one_text() -> None:
    ar, diffusion, drafted = entries(recorded_race("nano"))
    assert ar.ar_run is not None
    assert ar.ar_run == drafted.ar_run
    assert diffusion.ar_run is None


def test_ar_can_be_the_faster_lane() -> None:
    text = verdict([AR, entry("Block diffusion", "block_diffusion", 10, 60.0)])
    assert "needed 2.0x fewer forwards than AR" in text
    assert "By the median forward AR was nevertheless about 3.0x faster" in text
    assert "a forward of Block diffusion took 6.0x the time of one of AR" in text


def test_one_slow_forward_changes_nothing() -> None:
    calm = entry("Self-speculation", "self_speculative", 8, 13.0)
    slow = Entry(*(getattr(calm, name) for name in ("name", "strategy", "metrics", "tokens")), calm.forwards[:-1])
    slow = Entry(slow.name, slow.strategy, slow.metrics, slow.tokens, (*slow.forwards, Forward("denoise", 16, 5.0)))
    assert verdict([AR, calm]) == verdict([AR, slow])


@pytest.mark.parametrize("lanes", [2, 4])
def test_identical_lanes_have_no_winner_however_their_times_differ(lanes: int) -> None:
    for seed in range(30):
        many = [entry(f"AR {n}", "ar", 20, 10.0 * (1 + n), 1, jitter=4.0, seed=seed + n) for n in range(lanes)]
        text = verdict(many)
        which = "Both lanes" if lanes == 2 else "All 4 lanes"
        assert text == f"{which} did equal work, 20 forwards each, with the same text: no measurable difference."


def test_two_equal_lanes_among_others_have_no_winner() -> None:
    equal = [entry(f"Block {n}", "block_diffusion", 5, 10.0 * (n + 1)) for n in range(2)]
    worse = entry("Other", "block_diffusion", 9)
    assert verdict([*equal, worse]) == (
        "Block 0 and Block 1 did equal work, 5 forwards each: no measurable difference; the same text as Block 1."
    )


def test_a_wider_forward_is_never_cheaper() -> None:
    """A wide pass that was measured faster than a narrow one tells only that the machine was busy."""
    text = verdict([AR, entry("Self-speculation", "self_speculative", 5, 4.0)])
    assert "about 4.0x faster: a forward of Self-speculation took about as long as one of AR" in text
    text = verdict([AR, entry("Block diffusion", "block_diffusion", 19, 4.0)])
    assert "In time this run shows no measurable difference." in text


def test_a_difference_within_the_spread_of_the_forwards_is_none() -> None:
    noisy = entry("Block diffusion", "block_diffusion", 15, 8.0, jitter=3.0)
    text = verdict([entry("AR", "ar", 20, 8.0, 1, jitter=3.0), noisy])
    assert text.startswith("Block diffusion needed 1.3x fewer forwards than AR, 15 instead of 20")
    assert text.endswith("In time this run shows no measurable difference.")


def test_few_forwards_have_no_times() -> None:
    text = verdict([AR, entry("Self-speculation", "self_speculative", 2)])
    assert text.startswith("Self-speculation needed 10.0x fewer forwards than AR, 2 instead of 20")
    assert text.endswith("They are too few forwards to compare times.")


def test_without_ar_the_two_best_are_compared() -> None:
    lanes = [entry(name, "block_diffusion", count) for name, count in (("a", 15), ("b", 5), ("c", 10))]
    assert verdict(lanes).startswith("b needed 2.0x fewer forwards than c, 5 instead of 10")


def test_too_few_lanes_or_tokens_give_no_verdict() -> None:
    assert verdict([AR]) == ""
    assert verdict([]) == ""
    short = verdict([AR, entry("Block diffusion", "block_diffusion", 0)])
    assert short == "No verdict: the answer of Block diffusion is too short to compare."


def test_the_work_of_the_same_decode_repeats() -> None:
    model = nb.load("nano", dtype="float32")
    runs = []
    for _ in range(2):
        out = nb.generate(model, "What is the capital of Peru?", block_size=16, max_new_tokens=24)
        runs.append(forwards_of(out.trace.events))
        assert len(runs[-1]) == out.metrics.decode_forwards
    assert same_work(*runs)
    assert not same_work(runs[0], runs[0][1:])
    assert time_of(runs[0][:3]) is None


@pytest.mark.parametrize("model", ["nano", "smollm2-drafts"])
def test_a_recorded_race_has_the_verdict_of_its_events(model: str) -> None:
    race = recorded_race(model)
    assert {lane.trace.model for lane in race.lanes} == {model}
    assert race.verdict == verdict(entries(race))
