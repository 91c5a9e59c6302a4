"""The verdict: the faster lane of a run and the reason."""

from nbdiff_engine.trace.metrics import Metrics
from playground.race.verdict import Entry, verdict


def entry(name: str, strategy: str, rate: float | None, forwards: int = 10, tokens: tuple[int, ...] = (1, 2, 3)):
    seconds = 1.0 if rate is None else 20 / rate
    metrics = Metrics(
        output_tokens=21,
        prefill_seconds=0.0,
        decode_seconds=seconds,
        decode_forwards=forwards,
        denoise_forwards=forwards,
        commit_forwards=0,
        tokens_per_forward=20 / forwards,
        tokens_per_second=rate,
        seconds_to_first_token=0.0,
        seconds_to_first_block=0.0,
    )
    return Entry(name, strategy, metrics, tokens)


def test_the_verdict_names_the_faster_lane_the_ratio_and_the_reason() -> None:
    text = verdict([entry("AR", "ar", 100.0, forwards=20), entry("Self-speculation", "self_speculative", 310.0, 5)])
    assert text == (
        "Self-speculation was 3.1x as fast as AR, with the same tokens. Self-speculation decoded 4.0 tokens per "
        "forward, AR 1.0; a forward of Self-speculation took 1.3x the time of one of AR."
    )


def test_the_verdict_notes_that_the_text_differs_from_ar() -> None:
    text = verdict([entry("AR", "ar", 100.0, 20), entry("Block diffusion", "block_diffusion", 200.0, 5, (1, 2))])
    assert text.startswith(
        "Block diffusion decoded 2.0x as many tokens per second as AR; the text differs from AR's. Block diffusion "
        "decoded"
    )


def test_ar_can_be_the_faster_lane() -> None:
    text = verdict([entry("AR", "ar", 300.0, 20), entry("Block diffusion", "block_diffusion", 100.0, 15)])
    assert text.startswith("AR was 3.0x as fast as Block diffusion, with the same tokens. Block diffusion decoded 1.3")


def test_a_small_difference_is_a_tie() -> None:
    text = verdict([entry("AR", "ar", 100.0, 20), entry("Block diffusion", "block_diffusion", 104.0)])
    assert text.startswith("A tie between Block diffusion and AR in this run.")


def test_without_ar_the_two_fastest_are_compared() -> None:
    lanes = [entry(name, "block_diffusion", rate) for name, rate in (("a", 100.0), ("b", 300.0), ("c", 200.0))]
    assert verdict(lanes).startswith("b was 1.5x as fast as c")


def test_too_few_lanes_or_tokens_give_no_verdict() -> None:
    assert verdict([entry("AR", "ar", 100.0)]) == ""
    assert verdict([]) == ""
    short = verdict([entry("AR", "ar", 100.0), entry("Block diffusion", "block_diffusion", None)])
    assert short == "No verdict: the answer of Block diffusion is too short to measure a rate."
