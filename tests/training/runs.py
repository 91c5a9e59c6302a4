"""Small bases, data and recipes for whole runs."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.training.bases import write_base
from training.recipe.recipe import Recipe

WORDS = ("red", "blue", "old", "new", "small", "cat", "dog", "bird", "house", "tree", "river", "walks", "sees", "finds")


def small_base(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random AR checkpoint with small weights, saved to `folder`: its next-token probabilities are nearly equal."""
    return write_base(folder, family, seed=seed, initializer_range=0.05)


def small_data(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """Prompts and completions of a few words, as .jsonl."""
    draw = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    lines = [{"prompt": words(4), "completion": words(draw.randint(3, 14))} for _ in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def small_recipe(base: Path, data: Path, /, **sections: Any) -> Recipe:
    """Six float32 steps from block size 1 to 8; `sections` overrides settings, section by section."""
    fields: dict[str, Any] = {
        "base": str(base),
        "data": {"source": str(data), "held_out": 6},
        "blocks": {"b_max": 8, "interval": 0.2},
        "optimisation": {
            "max_steps": 6,
            "packed_length": 64,
            "rows": 2,
            "learning_rate": 1e-2,
            "warmup": 0.2,
            "decay": 0.4,
        },
        "saving": {"save_every": 2, "eval_every": 3},
        "precision": "fp32",
        "threads": 1,
    }
    for name, value in sections.items():
        fields[name] = {**fields[name], **value} if isinstance(fields.get(name), dict) else value
    return Recipe.model_validate(fields)


def written(recipe: Recipe, path: Path) -> Path:
    """The recipe as a file, for the command line."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    return path


def losses(folder: Path) -> list[tuple[int, float, float, float]]:
    """Step, loss, loss_mdm and loss_ar of every line of a run's log."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)[key] for key in ("step", "loss", "loss_mdm", "loss_ar")) for line in lines]
