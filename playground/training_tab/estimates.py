"""Memory and time that a run needs: the estimate of training.planning in words, and as a file in the job's folder."""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from nbdiff_engine import NBDiffError, bundled_models
from nbdiff_engine.model.gguf_files import conversions
from nbdiff_engine.model.hub_checkpoints import HubName, is_cached
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from playground.page_words import bytes_in_words
from playground.training_tab.quantities import duration
from training.recipe.recipe import Recipe

FILE = "estimate.json"
# FLOP/s of matrix products by machine. Measured once, because a running job would lower the result.
_speeds: dict[tuple, float] = {}


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Memory, time and size of a run on one machine; the fields of a job's estimate.json."""

    device: str
    model: str
    parameters: int
    trained: int  # parameters
    tokens_per_step: int
    max_steps: int
    peak_memory: float  # bytes
    machine_memory: float | None  # bytes
    seconds: float | None  # a lower bound

    def in_words(self) -> str:
        """Two or three sentences for the page."""
        fits = ""
        if self.machine_memory:
            enough = self.peak_memory < 0.9 * self.machine_memory
            verdict = "fits" if enough else "does not fit; try gradient checkpointing, LoRA or a shorter packed length"
            fits = f" of {bytes_in_words(self.machine_memory)}: it {verdict}"
        share = "all" if self.trained >= self.parameters else f"{100 * self.trained / self.parameters:.2g} %"
        time = "" if self.seconds is None else f" Time: at least {duration(self.seconds)}."
        return (
            f"Memory: about {bytes_in_words(self.peak_memory)}{fits}.{time} {self.model}, "
            f"{self.parameters / 1e6:,.1f} million parameters, {share} of them trained; "
            f"{self.max_steps:,} steps of {self.tokens_per_step:,} tokens."
        )


def estimated(recipe: Recipe) -> RunEstimate:
    """The estimate of a run on this machine. Raises NBDiffError, one sentence."""
    # These import torch, which is slow and not needed to build the page.
    from training.planning import estimate
    from training.planning.machine_speed import memory_of_machine

    device = "cuda" if memory_of_machine("cuda") else "cpu"
    machine = (device, recipe.precision, recipe.base)
    found = estimate.estimate(recipe, device, _speeds.get(machine))
    if found.matmul_flops_per_second is not None:
        _speeds[machine] = found.matmul_flops_per_second
    return RunEstimate(
        device=device,
        model=found.model,
        parameters=found.parameters,
        trained=found.trained_parameters,
        tokens_per_step=found.tokens_per_step,
        max_steps=found.max_steps,
        peak_memory=found.memory.process,
        machine_memory=memory_of_machine(device),
        seconds=found.seconds_in_all,
    )


def at_once(recipe: Recipe) -> str:
    """The estimate in words; what to press where it takes data, a download or a conversion."""
    if recipe.optimisation.epochs is not None:
        return "Memory and time: press Estimate, which counts the steps of an epoch in the data."
    if not _shape_is_here(recipe.base):
        return f"Memory and time: press Estimate, which reads the shape of {Path(recipe.base).name} first."
    return estimated(recipe).in_words()


def _shape_is_here(base: str | None) -> bool:
    """Whether the shape of a base can be read at once: from a folder, the hub's cache or a table."""
    from training.planning.shapes import PUBLISHED

    if base is None or base in bundled_models():
        return True
    package = PACKAGED_MODELS.get(base)
    gguf = package.gguf if package is not None else Path(base) if base.endswith(".gguf") else None
    if gguf is not None:
        return gguf.resolve() in conversions()
    hub_name = HubName.of(base)
    return Path(base).is_dir() or Path(base).name in PUBLISHED or (hub_name is not None and is_cached(hub_name))


def save(recipe: Recipe, folder: Path) -> None:
    """Write the estimate into the folder of a job, in a separate thread. After an error, there is no file."""

    def work() -> None:
        try:
            (folder / FILE).write_text(json.dumps(asdict(estimated(recipe))) + "\n", encoding="utf-8")
        except (NBDiffError, OSError):
            return

    threading.Thread(target=work, name="estimate", daemon=True).start()


def load(folder: Path) -> RunEstimate | None:
    """The estimate in the folder of a job, or None."""
    try:
        return RunEstimate(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
