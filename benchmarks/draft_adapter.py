"""A draft adapter on the 200 held-out chat prompts: tokens equal to the base's, tokens per forward, speed, by kind.

    python benchmarks/draft_adapter.py --adapter smollm2-drafts
    python benchmarks/draft_adapter.py --adapter smollm2-drafts --kinds chat code --per-kind 12
    python benchmarks/draft_adapter.py --model path/to/base --adapter path/to/adapter --per-kind 4 --dtypes float32

One stream: each prompt alone, greedy, prefill included. AR of the same engine and self-speculation with the adapter
take turns on each prompt. A second race, on the first prompts of each kind, has also fixed layouts of the drafts,
transformers.generate and its prompt lookup. "= AR" is the share of prompts with exactly AR's tokens; for every other
one the gap between AR's two best logits at the first difference is printed. The last line is JSON.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import nbdiff_engine as nb
from benchmarks.contenders import lossless_contenders
from benchmarks.measuring import BenchmarkParser, Report, at_least, run
from benchmarks.race import race_by_prompt
from nbdiff_engine.errors import SettingError
from nbdiff_engine.tasks.held_out import held_out_prompts


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.set_defaults(model="smollm2")
    parser.add_argument("--adapter", required=True, help="folder of the draft adapter, or the name of a bundled one")
    parser.add_argument("--per-kind", type=at_least(1), default=40, help="prompts of each kind")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds of prompts; default: all")
    parser.add_argument("--max-new-tokens", type=at_least(2), default=128)
    parser.add_argument(
        "--stock-per-kind", type=at_least(1), default=8, help="prompts of each kind for the second race"
    )
    parser.add_save()
    options = parser.parse_args()
    report = Report("draft_adapter", options.save)
    by_kind: dict[str, list[str]] = {}
    for kind, prompt in held_out_prompts():
        by_kind.setdefault(kind, []).append(prompt)
    if unknown := set(options.kinds or ()) - by_kind.keys():
        raise SettingError(f"--kinds has {min(unknown)!r}; choose from {', '.join(by_kind)}.")
    by_kind = {kind: prompts for kind, prompts in by_kind.items() if kind in (options.kinds or by_kind)}
    most = min(map(len, by_kind.values()))
    options.stock_per_kind = min(options.stock_per_kind, options.per_kind)
    if options.per_kind > most:
        raise SettingError(f"--per-kind is {options.per_kind}, but there are {most} prompts of each kind.")
    figures: dict[str, Any] = {}
    for dtype in options.dtypes:
        model = nb.load(options.model, dtype=dtype, device=options.device, adapter=options.adapter)
        stock = nb.load(options.model, dtype=dtype, device=options.device, fused=False).network
        if options.threads:
            torch.set_num_threads(options.threads)
        else:
            nb.choose_threads(model)
        figures[dtype] = own = {"threads": torch.get_num_threads(), "kinds": {}}
        for kind, texts in by_kind.items():
            chats = [[{"role": "user", "content": text}] for text in texts[: options.per_kind]]
            prompts = nb.prepare(model, chats).prompts
            own["kinds"][kind] = {}
            for name, network, count in (("all", None, options.per_kind), ("stock", stock, options.stock_per_kind)):
                some = prompts[:count]
                turns = [lossless_contenders(model, network, each, options.max_new_tokens) for each in some]
                found = race_by_prompt(model, turns, some, f"{dtype}, {kind}")
                report.write(
                    f"\n{kind}: {model.name}, {dtype}, {own['threads']} thread(s), {len(some)} prompts, answers of at "
                    f"most {options.max_new_tokens} tokens\n{found.to_text()}"
                )
                own["kinds"][kind][name] = found.to_json()
    report.finish({"model": options.model, "adapter": options.adapter, "dtypes": figures})


if __name__ == "__main__":
    run(main)
