"""Perplexity of held-out text under block diffusion, for each block size, and under AR.

    python benchmarks/likelihood.py --limit 25 --samples 32 --save benchmarks/results/likelihood-cpu.txt

The text is the reference answers of the bundled held-out problems, each with its end-of-sequence token, conditioned on
its prompt. AR figures are exact. Figures of block diffusion are upper bounds on its perplexity, estimated over random
masks (`nbdiff_engine/evaluation/likelihood.py`). The column +- is the standard error of the estimate. It is 0 if
nothing was sampled: the figure is then the exact bound, and for blocks of 1 and 2 the exact perplexity. Perplexity is
per token. Bits per byte divide by the UTF-8 bytes of the answers; the end-of-sequence token has no bytes. The last line
is JSON.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbdiff_engine as nb
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.evaluation.likelihood import SAMPLES, ar_likelihood, diffusion_likelihood
from nbdiff_engine.evaluation.machine_facts import machine_facts
from nbdiff_engine.tasks import DOMAINS, Problem, held_out

BLOCK_SIZES = (1, 2, 4, 8, 16, 32)


@dataclasses.dataclass(frozen=True, slots=True)
class PerplexityRow:
    """The perplexity of one model, scored in one way, on the answers of one domain."""

    model: str
    block_size: int | None  # None: scored by AR
    domain: str
    tokens: int
    bytes: int
    nats: float  # negative log-likelihood of all answers, or its upper bound
    nats_error: float | None  # standard error of the estimate
    perplexity: float
    perplexity_error: float | None
    bits_per_byte: float
    bits_per_byte_error: float | None

    @classmethod
    def of(cls, model: str, block_size: int | None, domain: str, scored: Sequence["ScoredAnswer"]) -> "PerplexityRow":
        tokens, size = sum(each.tokens for each in scored), sum(each.bytes for each in scored)
        nats = -math.fsum(each.log_likelihood for each in scored)
        errors = [each.standard_error for each in scored]
        error = None if None in errors else math.sqrt(math.fsum(each**2 for each in errors))
        perplexity = math.exp(nats / tokens)
        return cls(
            model=model,
            block_size=block_size,
            domain=domain,
            tokens=tokens,
            bytes=size,
            nats=nats,
            nats_error=error,
            perplexity=perplexity,
            perplexity_error=None if error is None else perplexity * error / tokens,
            bits_per_byte=nats / math.log(2) / size,
            bits_per_byte_error=None if error is None else error / math.log(2) / size,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """The log-likelihood of one answer, in nats, and its standard error."""

    domain: str
    tokens: int
    bytes: int
    log_likelihood: float
    standard_error: float | None


def answers(model: nb.BlockModel, problems: Sequence[Problem]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each problem's encoded prompt, and of its answer with the end of sequence.

    Raises CheckpointError for a tokenizer without an end of sequence.
    """
    end = model.tokenizer.eos_token_id
    if end is None:
        raise nb.CheckpointError(f"The tokenizer of {model.name} has no end-of-sequence token.")
    return [
        (encode(model, each.prompt)[1], [*model.tokenizer(each.answer, add_special_tokens=False)["input_ids"], end])
        for each in problems
    ]


def measure(
    model: nb.BlockModel, problems: Sequence[Problem], block_sizes: Sequence[int], samples: int, seed: int
) -> list[PerplexityRow]:
    """Score by AR, if the model decodes by AR, and by each block size; rows for each domain and for all."""
    pairs = answers(model, problems)
    kinds: list[tuple[int | None, list]] = []
    if model.spec is None or model.spec.commits_as_ar:
        found = ar_likelihood(model, pairs, batch_size=16, progress=True)
        kinds.append((None, [(each.log_likelihood, 0.0) for each in found]))
    for size in block_sizes if model.spec is not None else ():
        found = diffusion_likelihood(model, pairs, block_size=size, samples=samples, seed=seed, progress=True)
        kinds.append((size, [(each.log_likelihood, each.standard_error) for each in found]))
    rows = []
    for size, found in kinds:
        scored = [
            ScoredAnswer(problem.domain, len(ids), len(problem.answer.encode()), *figures)
            for problem, (_, ids), figures in zip(problems, pairs, found, strict=True)
        ]
        domains = {each.domain: [one for one in scored if one.domain == each.domain] for each in scored}
        rows += [PerplexityRow.of(model.name, size, domain, own) for domain, own in (domains | {"all": scored}).items()]
    return rows


def table(rows: Sequence[PerplexityRow]) -> str:
    head = f"{'model':10} {'scored by':14} {'text':10} {'tokens':>7} {'perplexity':>11} {'+-':>7}"
    lines = [f"{head} {'bits/byte':>10} {'+-':>7}"]
    for row in rows:
        if row.domain == next(each.domain for each in rows):
            lines.append("")
        by = "AR" if row.block_size is None else f"blocks of {row.block_size}"
        errors = [row.perplexity_error, row.bits_per_byte_error]
        perplexity_error, bits_error = ("" if each is None else "0" if each == 0 else f"{each:.4f}" for each in errors)
        lines.append(
            f"{row.model:10} {by:14} {row.domain:10} {row.tokens:7} {row.perplexity:11.4f} {perplexity_error:>7} "
            f"{row.bits_per_byte:10.4f} {bits_error:>7}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--model", action="append", help="bundled name, folder or hub id; may be repeated. Default: nano-ar and nano"
    )
    parser.add_argument("--block-size", type=int, nargs="+", default=list(BLOCK_SIZES))
    parser.add_argument("--samples", type=int, default=SAMPLES, help="random masks of each block")
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks")
    parser.add_argument("--limit", type=int, default=None, help="problems of each domain; default: all 100")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save", type=Path, default=None, help="also write the output to this file")
    options = parser.parse_args()
    if options.save is not None and not options.save.absolute().parent.is_dir():
        parser.error(f"the folder of {options.save} does not exist")
    try:
        problems = [each for domain in DOMAINS for each in held_out(domain, options.limit)]
        rows: list[PerplexityRow] = []
        started = time.perf_counter()
        for name in options.model or ["nano-ar", "nano"]:
            model = nb.load(name, dtype=options.dtype, device=options.device)
            nb.choose_threads(model)
            rows += measure(model, problems, options.block_size, options.samples, options.seed)
        seconds = time.perf_counter() - started
    except nb.NBDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    machine = machine_facts()
    title = (
        f"{len(problems)} held-out answers, {options.dtype}, at most {options.samples} masks a block, seed "
        f"{options.seed}; {seconds:.0f} s\n{machine.cpu}, torch {machine.torch}, {machine.date}\n"
    )
    report = {
        "samples": options.samples,
        "seed": options.seed,
        "dtype": options.dtype,
        "seconds": round(seconds, 1),
        "rows": [dataclasses.asdict(row) for row in rows],
        "machine": machine.to_json(),
    }
    text = f"{title}\n{table(rows)}\n\n{json.dumps(report, allow_nan=False)}"
    print(text)
    if options.save is not None:
        options.save.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
