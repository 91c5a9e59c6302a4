"""The share of answers in which self-speculation gives other tokens than AR, by dtype and temperature.

    python benchmarks/exactness.py
    python benchmarks/exactness.py --model path/to/checkpoint --prompts prompts.txt --dtypes float32 --save

AR reads one token per forward, a verify pass reads a block. Sums of other widths are rounded in another order: in
float32 by about 1e-6, in bfloat16 by much more, so two tokens of nearly equal probability can change places. For each
answer that differs, the table gives the lead that AR's token had at the first difference, in nats of log-probability
(greedy). A checkpoint without a `block_diffusion` entry is given one with --mask-token-id: its drafts are then almost
always wrong, which makes the most verify passes. The last line is JSON.
"""

import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tqdm import tqdm

import nbdiff_engine as nb
from benchmarks.measuring import BenchmarkParser, Report, at_least, held_out_prompts, load_for, run, table
from nbdiff_engine.errors import SettingError
from nbdiff_engine.evaluation.pairs import top_two_gap


def read_prompts(path: str | None, count: int) -> list[str]:
    """The first `count` lines of a text file; held-out problems if there is no file. Raises SettingError."""
    if path is None:
        return held_out_prompts(count)
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"The prompts cannot be read from {path}: {error}.") from error
    if len(lines) < count:
        raise SettingError(f"{count} prompts are requested, but {path} has {len(lines)} lines that are not empty.")
    return lines[:count]


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--prompts", help="a text file with one prompt per line; default: held-out problems")
    parser.add_argument("--count", type=at_least(1), default=40, help="number of prompts")
    parser.add_argument("--new", type=at_least(2), default=48, help="new tokens of each answer")
    parser.add_argument("--block-size", type=at_least(2), default=8)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0, 1.0])
    parser.add_argument("--mask-token-id", type=at_least(0), help="for a checkpoint without a block_diffusion entry")
    parser.add_save()
    options = parser.parse_args()
    prompts = read_prompts(options.prompts, options.count)
    report = Report("exactness", options.save)
    rows, figures = [], []
    for dtype in options.dtypes:
        model = load_for(options, dtype)
        if model.spec is None:
            if options.mask_token_id is None:
                raise SettingError(f"{options.model} has no block_diffusion entry; give --mask-token-id.")
            model.spec = nb.DiffusionSpec(mask_token_id=options.mask_token_id, block_size=options.block_size)
        for temperature in options.temperatures:
            settings = {"max_new_tokens": options.new, "temperature": temperature, "trace": False}
            leads = []
            for prompt in tqdm(prompts, desc=f"{dtype}, temperature {temperature:g}", leave=False, disable=None):
                job = nb.prepare(model, prompt, strategy="ar", **settings)
                [ar] = job.outputs()
                # Without backoff: with it, wrong drafts would soon leave only AR steps, which are no test.
                block = {"strategy": "self_speculative", "block_size": options.block_size, "draft_backoff": False}
                speculative = nb.generate(model, prompt, **block, **settings)
                pairs = zip(ar.token_ids, speculative.token_ids)
                at = next((index for index, (one, other) in enumerate(pairs) if one != other), None)
                if at is not None:
                    leads.append(top_two_gap(model, [*job.prompts[0], *ar.token_ids[:at]]))
            median = statistics.median(leads) if leads else None
            figures.append({"dtype": dtype, "temperature": temperature, "differ": len(leads), "of": len(prompts)})
            lead = f"{median:.3f}" if leads and temperature == 0 else None
            rows.append((dtype, f"{temperature:g}", f"{len(leads)} of {len(prompts)}", lead))
    report.write(f"{options.model}: blocks of {options.block_size}, {options.new} new tokens")
    report.write(table(("dtype", "temperature", "other tokens than AR", "median lead, nats"), rows))
    report.finish({"model": options.model, "settings": figures})


if __name__ == "__main__":
    run(main)
