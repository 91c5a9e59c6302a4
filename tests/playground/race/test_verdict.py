"""The verdict: who was faster in a run and why, whoever it was."""

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


def test_it_names_the_winner_the_ratio_and_the_reason() -> None:
    said = verdict([entry("AR", "ar", 100.0, forwards=20), entry("Self-speculation", "self_speculative", 310.0, 5)])
    assert said == (
        "Self-speculation finished 3.1x sooner than AR with the same tokens. Self-speculation made 4.0 tokens per "
        "forward, and each forward took 1.3x the time of one of AR, which made 1.0 tokens per forward."
    )


def test_other_tokens_are_said_to_be_others() -> None:
    said = verdict([entry("AR", "ar", 100.0, 20), entry("Block diffusion", "block_diffusion", 200.0, 5, (1, 2))])
    assert said.startswith(
        "Block diffusion wrote 2.0x as many tokens a second as AR, with other tokens than AR's. Block diffusion made"
    )


def test_ar_can_win() -> None:
    said = verdict([entry("AR", "ar", 300.0, 20), entry("Block diffusion", "block_diffusion", 100.0, 15)])
    assert said.startswith(
        "AR finished 3.0x sooner than Block diffusion with the same tokens. Block diffusion made 1.3"
    )


def test_a_small_difference_is_a_tie() -> None:
    said = verdict([entry("AR", "ar", 100.0, 20), entry("Block diffusion", "block_diffusion", 104.0)])
    assert said.startswith("A tie between Block diffusion and AR in this run.")


def test_without_ar_the_two_fastest_are_compared() -> None:
    lanes = [entry(name, "block_diffusion", rate) for name, rate in (("a", 100.0), ("b", 300.0), ("c", 200.0))]
    assert verdict(lanes).startswith("b finished 1.5x sooner than c")


def test_nothing_is_divided_by_nothing() -> None:
    assert verdict([entry("AR", "ar", 100.0)]) == ""
    assert verdict([]) == ""
    short = verdict([entry("AR", "ar", 100.0), entry("Block diffusion", "block_diffusion", None)])
    assert short == "No verdict: the answer of Block diffusion is too short to have a rate."
