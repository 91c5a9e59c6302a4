"""Cost of a training step of a draft adapter, against a LoRA step of the same documents.

    python -m benchmarks.draft_step --base nano-ar --data corpus
    python -m benchmarks.draft_step --base smollm2 --data answers.jsonl --rank 32

Both read the same packed rows, with the same LoRA layers and block size; the LoRA step (lora.mode all) is a forward of
[noised ; clean] with both losses. Times are CPU seconds of this process, which other programs disturb less than the
clock; with one thread they are the same on an idle machine. The last line is JSON.
"""

import json
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from training.data.packing import Cursor
from training.model.base import TrainedModel
from training.recipe.recipe import Recipe
from training.run.launch import load_network, make_objective, make_trainable, open_documents
from training.run.optimizers import make_optimizers
from training.run.step_reader import StepReader

_AR_WEIGHT = 0.5


def seconds_of(
    recipe: Recipe, base: TrainedModel, repeats: int, clock: Callable[[], float] = time.process_time
) -> tuple[list[float], int]:
    """Seconds of each step by a clock, by default CPU seconds, and its clean tokens. The first, untimed step allocates
    memory. base: on the device of the steps; it gets the adapters of the recipe."""
    device = base.network.device
    model, adapters = make_trainable(recipe, base)
    objective = make_objective(recipe, model, adapters, device.type)
    train, held_out = open_documents(recipe, model)
    reader = StepReader(
        recipe, model, train, held_out, processes=1, multiple=128 if device.type == "cuda" else 1
    )  # as in a run: FlexAttention has tiles
    with reader:
        step = reader.take(0, Cursor())
    optimizers = make_optimizers(recipe.optimisation, objective.trained())
    found = []
    for _ in range(repeats + 1):
        started = clock()
        for batch in step.batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = objective(batch.to(device)).total(_AR_WEIGHT)
            (loss / step.target_count).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found.append(clock() - started)
    return found[1:], step.tokens


def main(
    base: Annotated[str, typer.Option(help="AR checkpoint: bundled name, folder or hub id.")] = "nano-ar",
    data: Annotated[str, typer.Option(help="File, folder, hub id, or 'corpus'.")] = "corpus",
    rank: Annotated[int, typer.Option(help="Of the LoRA layers.")] = 32,
    block_size: Annotated[int, typer.Option(help="Of both.")] = 8,
    groups: Annotated[list[int] | None, typer.Option(help="Noisings per clean pass; may be repeated.")] = None,
    rows: Annotated[int, typer.Option(help="Packed rows of a step.")] = 2,
    length: Annotated[int, typer.Option(help="Tokens of a packed row.")] = 1024,
    repeats: Annotated[int, typer.Option(help="Timed steps of each kind.")] = 3,
) -> None:
    """Print the CPU seconds of a step of each kind."""
    torch.set_num_threads(1)
    common = {
        "base": base,
        "data": {"source": data, "held_out": 1},
        "blocks": {"kind": "fixed", "b_max": block_size},
        "optimisation": {"packed_length": length, "rows": 1, "accumulation": rows, "max_steps": 1},
        "precision": "fp32",
    }
    kinds = {"LoRA": {"lora": {"rank": rank}}}
    for number in groups or [1, 2]:
        for name, weights in (("ce", {"ce": 1.0}), ("ce+kl+tv", {"ce": 1.0, "kl": 1.0, "tv": 1.0})):
            draft = {"groups": number, **weights}
            kinds[f"draft, {number} group(s), {name}"] = {"lora": {"rank": rank, "mode": "draft_only"}, "draft": draft}
    found = {}
    for name, sections in kinds.items():
        recipe = Recipe.model_validate({**common, **sections})
        seconds, tokens = seconds_of(recipe, load_network(recipe, "benchmark", torch.device("cpu")), repeats)
        found[name] = min(seconds)
        print(
            f"{name:32} {found[name]:8.3f} s  {found[name] / found['LoRA']:5.2f} x LoRA  {tokens} clean tokens",
            flush=True,
        )
    print(json.dumps({"base": base, "rank": rank, "block_size": block_size, "cpu_seconds": found}))


if __name__ == "__main__":
    typer.run(main)
