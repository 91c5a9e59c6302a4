"""What an adaptation step costs: seconds against an AR step of the same rows, and peak memory, beside the estimate.

    python benchmarks/adaptation.py --packed-length 8192

A random network of nano's shape and of the context that is asked for is trained on the corpus, each kind of step in a
process of its own, since the peak of a process never falls again. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two threads else stall beside any other process
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nbdiff_engine.checkpoints import bundled_models
from nbdiff_engine.machine_facts import machine_facts
from training.estimate import estimate
from training.recipe import Recipe

STEPS = 3  # of which the first warms up


def random_base(folder: Path, context: int) -> None:
    """A random network of nano-ar's shape that holds `context` positions."""
    bundled = bundled_models()["nano-ar"]
    config = AutoConfig.from_pretrained(bundled, max_position_embeddings=context)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(folder)


def recipe_of(base: Path, length: int, block_size: int, checkpointing: bool, precision: str) -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(base),
            "data": {"source": "corpus", "held_out": 1},
            "blocks": {"kind": "fixed", "b_max": block_size},
            "optimisation": {
                "max_steps": STEPS,
                "packed_length": length,
                "rows": 1,
                "gradient_checkpointing": checkpointing,
            },
            "precision": precision,
            "saving": {"save_every": 1000, "eval_every": 0},
        }
    )


def measure(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Seconds of the last step and growth of the process at its peak, from a run of its own."""
    folder.mkdir()
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    program = [sys.executable, "-m", "benchmarks.adaptation", "--worker", str(file), str(folder / "run")]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(file: str, folder: str) -> None:
    """Run a recipe and print what it took."""
    from training.launch import start

    before = resident("VmRSS")
    start(Recipe.read(file), Path(folder), resume=False)
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    seconds = lines[-1]["seconds"] - lines[-2]["seconds"]
    print(json.dumps({"seconds": seconds, "peak_bytes": resident("VmHWM") - before}))


def resident(name: str) -> int:
    """VmRSS, or VmHWM, its peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--packed-length", type=int, default=8192, help="clean tokens of the one row of a step")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary) / "base"
        random_base(base, options.packed_length)
        for name, block_size, checkpointing in (
            ("AR", 1, False),
            ("block diffusion", options.block_size, False),
            ("block diffusion, layers recomputed", options.block_size, True),
        ):
            recipe = recipe_of(base, options.packed_length, block_size, checkpointing, options.precision)
            found = measure(recipe, Path(temporary) / name.replace(" ", "-"))
            memory = estimate(recipe, "cpu", None, 1.0, 1).memory.peak
            rows.append({"step": name, "block_size": block_size, **found, "estimated_peak_bytes": memory})
    print(f"one step at {options.packed_length} clean tokens, nano's shape, {options.precision}, CPU")
    print(f"{'step':36} {'block':>5} {'seconds':>8} {'x AR':>6} {'peak':>10} {'estimated':>10}")
    for row in rows:
        print(
            f"{row['step']:36} {row['block_size']:5} {row['seconds']:8.1f} {row['seconds'] / rows[0]['seconds']:6.2f} "
            f"{row['peak_bytes'] / 2**20:6.0f} MiB {row['estimated_peak_bytes'] / 2**20:6.0f} MiB"
        )
    print(json.dumps({"packed_length": options.packed_length, "rows": rows, "machine": machine_facts()}))


if __name__ == "__main__":
    main()
