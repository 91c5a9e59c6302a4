"""The folder of a training run, written without training: the files that the Training tab reads."""

import json
import shutil
from pathlib import Path

from nbdiff_engine import bundled_models
from training.recipe.recipe import Recipe
from training.run.checkpointing import publish

STEPS = 40
SAVED = (20, 40)


def write(folder: Path, steps: int = STEPS) -> Path:
    """A run of the smoke recipe. Its checkpoints, after steps 20 and 40, are the bundled model."""
    recipe = Recipe.read("smoke", optimisation__max_steps=steps)
    schedule = recipe.blocks.over(steps)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    metrics, evaluations, probes = [], [], []
    for step in range(1, steps + 1):
        size = schedule.at(step - 1)
        metrics.append(
            {
                "step": step,
                "loss": 3.0 / step,
                "loss_mdm": 0.0 if size == 1 else 3.0 / step,
                "loss_ar": 0.5 / step,
                "block_size": size,
                "lr": 1e-3,
                "tokens_seen": 1000 * step,
                "tokens_per_second": 900.0,
                "seconds": 1.0 * step,
                "gradient_norm": 0.5,
                "peak_memory": 800_000_000,
                "process_memory": 700_000_000,
                "gpu_memory": 900_000_000,
                "gpu_use": 87,
            }
        )
        if step in SAVED:
            losses = {str(each): {"loss_mdm": None if each == 1 else 1.0 / step, "loss_ar": 0.2} for each in (1, 4, 16)}
            evaluations.append({"step": step, "losses": losses})
            probes.append(_probed(step))
            publish(folder / "checkpoints" / f"step-{step:08d}", _checkpoint)
    for name, lines in (("metrics", metrics), ("evaluations", evaluations), ("probes", probes)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    publish(folder / "final", _model)
    return folder


def _model(folder: Path) -> None:
    shutil.copytree(bundled_models()["nano"], folder, dirs_exist_ok=True)


def _checkpoint(folder: Path) -> None:
    _model(folder)
    (folder / "optimizer.safetensors").write_bytes(b"0" * 100)
    (folder / "state.json").write_text("{}")


def _probed(step: int) -> dict:
    answer = {
        "prompt": "What is <b>2 + 3</b>?",
        "text": "5 <script>",
        "tpf": step / 20,
        "forwards": 3,
        "tokens": [["5", 0], [" <script>", 1]],
        "trace": {},
    }
    return {"step": step, "tpf": step / 20, "accuracy": 0.5, "problems": 8, "probes": [answer], "seconds": 0.4}
