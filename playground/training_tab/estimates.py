"""What a run will need: as training.planning estimates it, in a sentence or two, and kept beside the job for later."""

import json
import threading
from pathlib import Path
from typing import Any

from nbdiff_engine import NBDiffError
from playground.training_tab.words import duration, memory
from training.recipe.recipe import Recipe

FILE = "estimate.json"
_speeds: dict[tuple, float] = {}  # of matrix products, measured once: a job that runs would slow it down


def estimated(recipe: Recipe) -> dict[str, Any]:
    """Memory, time and size of a run on this machine. Raises NBDiffError, one sentence."""
    from training.planning import estimate  # with torch behind it; the page is built before

    device = "cuda" if estimate.memory_of_machine("cuda") else "cpu"
    machine = (device, recipe.precision, recipe.base)
    found = estimate.estimate(recipe, device, _speeds.get(machine))
    if found.matmul_flops_per_second is not None:
        _speeds[machine] = found.matmul_flops_per_second
    program = estimate.PROGRAM if device == "cpu" else 0
    return {
        "device": device,
        "model": found.model,
        "parameters": found.parameters,
        "trained": found.trained_parameters,
        "tokens_per_step": found.tokens_per_step,
        "max_steps": found.max_steps,
        "peak_memory": found.memory.peak + program,
        "machine_memory": estimate.memory_of_machine(device),
        "seconds": found.seconds,
    }


def words(found: dict[str, Any]) -> str:
    """The same for a reader."""
    there = found["machine_memory"]
    fits = ""
    if there:
        enough = found["peak_memory"] < 0.9 * there
        fits = (
            f" of {memory(there)}: it fits"
            if enough
            else (f" of {memory(there)}: it does not fit; try gradient checkpointing, LoRA or a shorter packed length")
        )
    share = (
        "all" if found["trained"] >= found["parameters"] else f"{100 * found['trained'] / found['parameters']:.2g} %"
    )
    time = "" if found["seconds"] is None else f" Time: at least {duration(found['seconds'])}."
    return (
        f"Memory: about {memory(found['peak_memory'])}{fits}.{time} {found['model']}, "
        f"{found['parameters'] / 1e6:,.1f} million weights, {share} of them trained; "
        f"{found['max_steps']:,} steps of {found['tokens_per_step']:,} tokens."
    )


def keep(recipe: Recipe, folder: Path) -> None:
    """Write an estimate into a job's folder, in a thread of its own."""

    def work() -> None:
        try:
            (folder / FILE).write_text(json.dumps(estimated(recipe)) + "\n", encoding="utf-8")
        except (NBDiffError, OSError):
            return

    threading.Thread(target=work, name="estimate", daemon=True).start()


def kept(folder: Path) -> dict[str, Any] | None:
    """The estimate of a job, where it has one."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
