"""The time of choosing tokens from logits: sampled against greedy, for two sizes of vocabulary.

    python benchmarks/sampling.py --save
    python benchmarks/sampling.py --vocabularies 49152 --rows 16 --rounds 30

Greedy and sampled choices of the same logits take turns; a ratio is the median over the rounds of sampled / greedy of
the same round. "all logarithms" is the direct form, which computes the noise of every token: the search finds the same
tokens (nbdiff_engine/token_choice/noise.py), and the benchmark stops if it does not. The logits are random with two
spreads: sharp, a few likely tokens, as a trained model mostly has; flat, thousands of likely tokens. The last line is
JSON.
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from benchmarks.measuring import BenchmarkParser, Report, at_least, ratio, run, table, take_turns
from nbdiff_engine.errors import SettingError
from nbdiff_engine.token_choice.noise import argmax_with_noise, gumbel, noise_key
from nbdiff_engine.token_choice.sampling import Sampler

SPREADS = {"sharp": 4.0, "flat": 1.0}  # standard deviation of the logits
SAMPLINGS = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 0.7, min_p 0.05": {"temperature": 0.7, "min_p": 0.05},
    "temperature 0.7, top_k 20": {"temperature": 0.7, "top_k": 20},
    "temperature 0.7, top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
}


def all_logarithms(logits_NV: torch.Tensor, keys: list[int]) -> torch.Tensor:
    """The sampled tokens by the definition: noise for every token of the vocabulary."""
    tokens = torch.arange(logits_NV.shape[1])[None]
    return (logits_NV + gumbel(torch.tensor(keys)[:, None], tokens)).argmax(dim=-1)


def measure(vocabulary: int, rows: int, spread: float, rounds: int) -> dict[str, dict[str, float]]:
    """Per choice: milliseconds (median) and its ratio to greedy."""
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * spread
    places = list(range(rows))
    keys = [noise_key(0, row, 0) for row in places]
    if not torch.equal(argmax_with_noise(logits, keys), all_logarithms(logits, keys)):
        raise SettingError("The search and the direct form sample different tokens; please report this.")
    samplers = {"greedy": Sampler(), **{name: Sampler(**settings) for name, settings in SAMPLINGS.items()}}
    calls = [lambda each=each: each.predict(logits, places, [0] * rows) for each in samplers.values()]
    calls.append(lambda: all_logarithms(logits, keys))
    for call in calls:
        call()
    seconds = take_turns(calls, rounds, f"{vocabulary} x {rows}")
    return {
        name: {"milliseconds": statistics.median(own) * 1000, "to_greedy": ratio(own, seconds[0])}
        for name, own in zip((*samplers, "all logarithms"), seconds, strict=True)
    }


def main() -> None:
    options = BenchmarkParser(__doc__)
    options.add_argument("--vocabularies", nargs="+", type=at_least(2), default=[49_152, 152_000])
    options.add_argument("--rows", type=at_least(1), default=16, help="positions per call")
    options.add_argument("--rounds", type=at_least(1), default=15)
    options.add_argument("--threads", type=at_least(1), default=1, help="torch threads")
    options.add_save()
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    report = Report("sampling", given.save)
    figures: dict[str, object] = {"rows": given.rows, "rounds": given.rounds, "threads": given.threads, "choices": []}
    for vocabulary in given.vocabularies:
        for name, spread in SPREADS.items():
            found = measure(vocabulary, given.rows, spread, given.rounds)
            figures["choices"].append({"vocabulary": vocabulary, "logits": name, "found": found})
            rows = [(each, f"{of['milliseconds']:.1f}", f"{of['to_greedy']:.2f}") for each, of in found.items()]
            report.write("\n" + table((f"{vocabulary:,} x {given.rows}, {name}", "ms", "/ greedy"), rows))
    report.finish(figures)


if __name__ == "__main__":
    run(main)
