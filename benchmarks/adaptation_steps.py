"""Timed training steps of several kinds in one process, for `benchmarks.adaptation`."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from nbdiff_engine.model.attention import PADDING
from training.data.packing import Cursor, Packer
from training.objective.attention_plan import plan_of, present
from training.objective.noising import Batch, Noising, noise
from training.objective.objective import Objective
from training.recipe.recipe import Recipe
from training.run.launch import load_network, make_trainable, open_documents
from training.run.optimizers import make_optimizers

_NAMES = {"documents": "nbdiff_documents", "dense": "sdpa", "flex": "flex_attention"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of step. block_size: 1 for an AR step. recomputed: with activation checkpointing."""

    name: str
    attention: str
    block_size: int
    recomputed: bool = False


@dataclass(frozen=True, slots=True)
class StepSplit:
    """Seconds of a step by operation. A run does the noising in another thread, in parallel with the step."""

    matrices: float
    attention: float
    masks: float  # building the mask, or the plan of the documents
    head: float  # softmax and loss; the products of the head are part of `matrices`
    optimiser: float
    noising: float
    other: float  # norms, activations, rotary embeddings, casts


class Stepper:
    """Runs steps of any kind with one network on one batch of rows."""

    def __init__(self, recipe: Recipe, device: str):
        self.device, self.recipe = device, recipe
        model = load_network(recipe, "benchmark", torch.device(device))
        self.model, _ = make_trainable(recipe, model)
        self.network = self.model.network
        train, _ = open_documents(recipe, self.model)
        steps = recipe.optimisation
        packed, _ = Packer(train, steps.packed_length, 0, recipe.blocks.b_max).batch(Cursor(), steps.rows)
        self.packed = packed
        self.clean_tokens = int((packed.document != PADDING).sum())
        parameters = dict(self.network.named_parameters())
        self.optimizers = make_optimizers(steps, parameters)
        self.batches: dict[int, Batch] = {}

    def noised(self, kind: Kind) -> Batch:
        noising = Noising(
            kind.block_size,
            self.model.spec.mask_token_id,
            ending_ids=frozenset(self.model.eos_token_ids),
            multiple=128 if self.device == "cuda" else 1,
        )
        return noise(self.packed, noising, torch.Generator().manual_seed(0))

    def step(self, kind: Kind) -> float:
        """Seconds of forward, backward and optimiser. On CUDA a first, untimed step of each block size compiles."""
        self._use_attention(kind)
        if kind.block_size not in self.batches:
            self.batches[kind.block_size] = self.noised(kind).to(torch.device(self.device))
            if self.device == "cuda":
                self._train(self.batches[kind.block_size])
        return self._timed(lambda: self._train(self.batches[kind.block_size]))

    def split(self, kind: Kind) -> StepSplit:
        """Seconds of a step by operation: operators by torch's profiler in one step, the rest by the clock."""
        self._use_attention(kind)
        batch = self.batches[kind.block_size]
        noising = self._timed(lambda: self.noised(kind))
        objective = Objective(self.network)
        if kind.attention == "documents":
            masks = self._timed(lambda: plan_of(batch.tokens, present(batch.tokens), "token_causal"))
        else:
            masks = self._timed(lambda: objective.mask(batch, None))
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device == "cuda")) as profiler:
            passes = self._timed(lambda: self._backward(batch))
        optimiser = self._timed(self._optimise)
        spent = {"matrices": 0.0, "attention": 0.0, "head": 0.0}
        for event in profiler.key_averages():
            part, inclusive = _part_of(event.key)
            if part:
                on_cpu = event.cpu_time_total if inclusive else event.self_cpu_time_total
                spent[part] += (event.self_device_time_total if self.device == "cuda" else on_cpu) / 1e6
        other = passes - masks - sum(spent.values())
        return StepSplit(**spent, masks=masks, optimiser=optimiser, noising=noising, other=other)

    def _timed(self, call: Callable[[], object]) -> float:
        self._synchronize()
        started = time.perf_counter()
        call()
        self._synchronize()
        return time.perf_counter() - started

    def _use_attention(self, kind: Kind) -> None:
        self.network.set_attn_implementation(_NAMES[kind.attention])
        if kind.recomputed:
            self.network.activation_checkpointing_enable()
        else:
            self.network.activation_checkpointing_disable()

    def _train(self, batch: Batch) -> None:
        self._backward(batch)
        self._optimise()

    def _backward(self, batch: Batch) -> None:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            losses = Objective(self.network)(batch)
        ((losses.mdm_sum + 0.5 * losses.ar_sum) / batch.target_count).backward()

    def _optimise(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _part_of(operator: str) -> tuple[str | None, bool]:
    """The part of a step that an operator belongs to, and whether the time of the operators it calls counts too."""
    if operator in ("aten::mm", "aten::addmm", "aten::bmm"):
        return "matrices", False
    if operator in ("nbdiff::document_attention", "nbdiff::document_attention_backward"):
        return "attention", True
    if "softmax" in operator or "nll_loss" in operator:
        return "head", False
    return None, False
