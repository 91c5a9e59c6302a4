"""Peak memory of whole adaptation runs beside the estimate.

    python -m benchmarks.adaptation_memory
    python -m benchmarks.adaptation_memory --base /models/SmolLM2-135M-Instruct --data train.jsonl --setting lora-512

Each run is a child process, `python -m training adapt`, and its peak is the largest resident set that the system has
recorded for it: Python and its libraries, loading, training, evaluation and saving included. The estimate is that of
`python -m training estimate` with the same data. Without `--base` only the settings of nano are run. The last line is
JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

from nbdiff_engine.evaluation.machine_facts import machine_facts
from training.planning.estimate import estimate
from training.recipe.recipe import Recipe

LORA = {"rank": 16}
# By name: what is set beside `fields_of`, and whether the run needs --base.
SETTINGS = {
    "nano-full": ({"optimisation": {"rows": 8, "packed_length": 128, "optimizer": "muon"}}, False),
    "nano-lora": ({"optimisation": {"rows": 8, "packed_length": 128}, "lora": LORA}, False),
    "nano-2048": ({"optimisation": {"rows": 4, "packed_length": 2048}}, False),
    "lora-512": ({"optimisation": {"packed_length": 512}, "lora": LORA}, True),
    "lora-512-checkpointed": (
        {"optimisation": {"packed_length": 512, "gradient_checkpointing": True}, "lora": LORA},
        True,
    ),
}


@dataclass(frozen=True, slots=True)
class RunMemory:
    """One measured run. Bytes of the whole process."""

    setting: str
    measured: int
    estimated: int
    cpu_seconds: float


def recipe_of(setting: str, base: str | None, data: str | None) -> Recipe:
    """Two steps at block size 16, in float32, with an evaluation at the end."""
    sections, needs_base = SETTINGS[setting]
    fields = {
        "base": base if needs_base else "nano-ar",
        "data": {"source": data if needs_base and data else "corpus", "held_out": 4},
        "blocks": {"kind": "fixed", "b_max": 16},
        "precision": "fp32",
        "saving": {"save_every": 1000, "eval_every": 0, "probes": False},
        **sections,
    }
    # The second step has the peak: the first creates the state of the optimiser.
    fields["optimisation"] = {"max_steps": 2, "rows": 1, **fields["optimisation"]}
    return Recipe.model_validate(fields)


def peak_of(recipe: Recipe, folder: Path) -> tuple[int, float]:
    """Bytes of the largest resident set of a new process that runs the recipe, and its seconds of processor time."""
    folder.mkdir()
    file = folder / "recipe.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "training", "adapt", "--recipe", str(file), "--output", str(folder / "run")]
    with (folder / "log").open("wb") as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"A measured run failed: {(folder / 'log').read_text(encoding='utf-8').splitlines()[-1]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="may be repeated; default: all")
    parser.add_argument("--base", help="the checkpoint of the settings that begin with 'lora'")
    parser.add_argument("--data", help="their data; default: corpus")
    options = parser.parse_args()
    chosen = options.setting or [name for name, (_, needs_base) in SETTINGS.items() if options.base or not needs_base]
    if options.base is None and any(SETTINGS[name][1] for name in chosen):
        parser.error("the settings lora-512 and lora-512-checkpointed need --base")
    found = []
    with tempfile.TemporaryDirectory() as temporary, tqdm(chosen, file=sys.stderr) as bar:
        for name in bar:
            bar.set_description(name)
            recipe = recipe_of(name, options.base, options.data)
            measured, seconds = peak_of(recipe, Path(temporary) / f"{name}-{time.time_ns()}")
            estimated = estimate(recipe, "cpu", 1e12, from_data=True).memory.process
            found.append(RunMemory(name, measured, estimated, seconds))
            with bar.external_write_mode(sys.stdout):
                off = 100 * (estimated / measured - 1)
                print(f"{name:24}{measured / 2**20:8.0f} MiB measured{estimated / 2**20:8.0f} MiB said{off:+6.0f}%")
    print(json.dumps({"runs": [asdict(each) for each in found], "machine": machine_facts().to_json()}))


if __name__ == "__main__":
    main()
