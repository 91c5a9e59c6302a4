"""Estimate memory and time of a run from the shape of its base, without its weights.

The activations of a layer are in `layer_sizes`; this module adds weights, optimiser, masks, head and allocator. With
gradient checkpointing, every layer saves only its input (D values per token), and one layer at a time all its
activations. The time is the number of floating-point operations at a measured rate of matrix products. It is a lower
bound: small networks on a CPU take much longer, large ones a little longer.
"""

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from nbdiff_engine.errors import SettingError, brief
from training.errors import RecipeError
from training.model.adapters import add_adapters
from training.objective.attention_choice import choose_attention
from training.objective.attention_plan import pairs
from training.objective.objective import chunk_rows
from training.planning.durations import duration
from training.planning.layer_sizes import Layer
from training.planning.shapes import BaseShape, find_shape, shape_of_new
from training.recipe.recipe import Recipe

_MASK_TEMPORARIES = 6  # boolean B x S x S tensors in memory while the mask is computed
_BACKWARD_SHARE = 0.5  # memory of gradients in a layer's backward, as a share of its activations
_QUANTISED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}  # nf4: one float32 scale for 64 weights
# glibc does not return freed pieces of up to 32 MB to the system: 51 to 172 MiB in four runs.
_ALLOCATOR = 2**27
PROGRAM = 6 * 2**30 // 10  # Python, torch and transformers, before the weights are loaded
# The attention forward has 2 products of S x S x Q; its backward recomputes one and has four more.
_ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process in bytes, without Python and its libraries."""

    weights: int
    weight_copies: int  # weights cast to the arithmetic's precision, saved for the backward pass
    gradients: int
    optimizer: int
    activations: int
    mask: int
    head: int  # logits of one chunk, and temporaries of the head
    exchange: int  # gradient buckets of a distributed wrapper
    allocator: int  # freed memory that the CPU allocator does not return
    peak: int


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one optimiser step of one process."""

    layers: int
    attention: int
    head: int
    recomputed: int

    @property
    def total(self) -> int:
        return self.layers + self.attention + self.head + self.recomputed


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of a run."""

    model: str
    parameters: int
    trained_parameters: int
    rows: int
    clean_tokens: int  # per row
    noised_tokens: int  # per row, at block sizes above 1
    tokens_per_step: int  # clean tokens of all processes
    max_steps: int
    memory: Memory
    work_first: Work  # at the run's first block size
    work_last: Work  # at its last
    matmul_flops_per_second: float | None
    seconds_per_step_first: float | None
    seconds_per_step_last: float | None
    seconds: float | None  # of the whole run

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        for name in ("work_first", "work_last"):
            fields[name]["total"] = getattr(self, name).total
        return fields


def estimate(
    recipe: Recipe, device: str = "cpu", flops: float | None = None, noised_share: float = 1.0, processes: int = 1
) -> Estimate:
    """Estimate a run of a recipe.

    flops: floating-point operations per second of matrix products. None: measured on this machine; without such a
        device the estimate has no times.
    noised_share: noised tokens per clean token. 1 for plain text; `preview` prints it for other data.

    Raises SettingError for an argument out of range, and RecipeError or CheckpointError for a missing base.
    """
    if not 0 <= noised_share <= 4:
        raise SettingError(f"noised_share is {brief(noised_share)}; it must be from 0 to 4.")
    if processes < 1:
        raise SettingError(f"processes is {brief(processes)}; it must be at least 1.")
    if flops is not None and not flops > 0:
        raise SettingError(f"flops is {brief(flops)}; it must be above 0.")
    shape = _shape(recipe)
    network = shape.network()
    parameters, layer = network.num_parameters(), Layer.of(network)
    if recipe.lora:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft, about new names in transformers
            add_adapters(network, recipe.lora, 0, 0)
    trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
    steps = recipe.optimisation
    clean = min(steps.packed_length, shape.config.max_position_embeddings)
    noised = round(clean * noised_share) if recipe.kind == "adapt" else 0
    rows = steps.rows * (2 if recipe.objective.complementary_masks else 1)
    sizes = _Sizes(recipe, shape, network, layer, trained, rows, clean, noised, processes, device)
    stages = recipe.blocks.over(steps.max_steps).stages if recipe.kind == "adapt" else ((0, 1),)
    if flops is None:
        flops = measure_matmul(device, recipe.precision, layer, rows * (clean + noised))
    seconds = None if flops is None else [sizes.work(size).total / flops for _, size in stages]
    lengths = [min(b, steps.max_steps) - min(a, steps.max_steps) for a, b in pairwise([*(s for s, _ in stages), 2**62])]
    return Estimate(
        model=shape.name,
        parameters=parameters,
        trained_parameters=sum(each.numel() for each in trained.values()),
        rows=rows,
        clean_tokens=clean,
        noised_tokens=noised if stages[-1][1] > 1 or not recipe.objective.token_shift else 0,
        tokens_per_step=steps.rows * steps.accumulation * processes * clean,
        max_steps=steps.max_steps,
        memory=sizes.memory(max(size for _, size in stages)),
        work_first=sizes.work(stages[0][1]),
        work_last=sizes.work(stages[-1][1]),
        matmul_flops_per_second=flops,
        seconds_per_step_first=seconds[0] if seconds else None,
        seconds_per_step_last=seconds[-1] if seconds else None,
        seconds=sum(n * each for n, each in zip(lengths, seconds, strict=True)) if seconds else None,
    )


def _shape(recipe: Recipe) -> BaseShape:
    if recipe.kind == "pretrain":
        return shape_of_new(recipe.network, "the new network")
    if recipe.base is None:
        raise RecipeError("The recipe names no base checkpoint; give one with --base.")
    return find_shape(recipe.base)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The inputs from which memory and work are computed."""

    recipe: Recipe
    shape: BaseShape
    network: PreTrainedModel
    layer: Layer
    trained: dict[str, torch.nn.Parameter]
    rows: int
    clean: int
    noised: int
    processes: int
    device: str

    @property
    def documents(self) -> bool:
        """Whether the run uses the attention `documents`."""
        return choose_attention(self.network, self.recipe.attention, self.device) == "documents"

    def pairs(self, block_size: int) -> tuple[int, int]:
        return pairs(self.clean, self.length(block_size) - self.clean, block_size)

    def length(self, block_size: int) -> int:
        """Tokens per row of the forward pass. With blocks of one token nothing is noised."""
        plain = block_size == 1 and self.recipe.objective.token_shift
        return self.clean + (0 if plain else self.noised)

    def scored_positions(self, block_size: int) -> tuple[int, int]:
        """Scored positions of a forward: next tokens, and masked tokens (a share of E[t] = 1/2)."""
        if self.recipe.kind == "pretrain":
            return self.rows * self.clean, 0
        answered = min(self.clean, self.noised)
        next_tokens = answered if self.recipe.objective.context == "token_causal" else answered // block_size
        can = 1 - 1 / block_size if self.recipe.objective.token_shift else 1.0
        return self.rows * next_tokens, round(self.rows * self.noised * can / 2)

    def work(self, block_size: int) -> Work:
        length, layer = self.length(block_size), self.layer
        repeats = self.recipe.optimisation.accumulation
        tokens = self.rows * length
        adapters = sum(each.numel() for name, each in self.trained.items() if "lora" in name)
        once = 2 * tokens * (layer.matrices + adapters)
        weights = once if not self.recipe.lora else 2 * tokens * adapters
        seen = self.pairs(block_size)[0] if self.documents else length * length
        attention = 4 * self.rows * seen * layer.queries * layer.number
        vocabulary, hidden = self.network.get_output_embeddings().weight.shape
        passes = 3 if self.recipe.lora else 4  # forward, again in the backward, inputs' gradients, weights' gradients
        again = once + attention if self.recipe.optimisation.gradient_checkpointing else 0
        return Work(
            layers=repeats * (2 * once + weights),
            attention=round(repeats * attention * (1 + _ATTENTION_BACKWARD)),
            head=repeats * passes * 2 * sum(self.scored_positions(block_size)) * vocabulary * hidden,
            recomputed=repeats * again,
        )

    def memory(self, block_size: int) -> Memory:
        recipe, layer, steps = self.recipe, self.layer, self.recipe.optimisation
        value = 2 if recipe.precision == "bf16" else 4
        stored = self.shape.dtype.itemsize if recipe.lora else 4
        length = self.length(block_size)
        tokens = self.rows * length
        number = sum(each.numel() for each in self.trained.values())
        gradients = 4 * number
        optimizer = 8 * number
        if steps.optimizer == "muon":  # one momentum for the matrices of the layers, see optimizers.py
            optimizer -= 4 * sum(p.numel() for name, p in self.trained.items() if p.ndim == 2 and ".layers." in name)
        kept = tokens * layer.kept(value, recipe.lora.rank if recipe.lora else None, self.documents)
        if getattr(self.network.config, "attention_dropout", 0):  # SDPA then saves its scores before and after dropout
            kept += 2 * tokens * layer.heads * length * value
        copied = layer.matrices if stored != value else 0
        residual = 4 if value < 4 and not recipe.lora else stored
        checkpointed = steps.gradient_checkpointing
        activations = tokens * layer.hidden * residual * layer.number + kept if checkpointed else kept * layer.number
        copies = value * (copied // layer.number if checkpointed else copied)
        # Outside the layers: the embedding, the last norm, rotary angles, and a copy of the scored positions.
        activations += tokens * (layer.hidden * (residual + 8) + 8 * layer.queries // layer.heads)
        activations += 4 * layer.hidden * sum(self.scored_positions(block_size))
        # Bytes of the boolean mask; FlexAttention has none.
        square = 0 if self.device == "cuda" else self.rows * length * length
        making = _MASK_TEMPORARIES * square
        mask = square * value
        backward = round(_BACKWARD_SHARE * kept)
        if self.documents:
            square = self.rows * self.pairs(block_size)[1]
            mask = 4 * square
            making = (_MASK_TEMPORARIES + 4) * square  # twice in float32, until its pieces are concatenated
            # In float32: queries, keys, values and their gradients, the output and its gradient.
            backward = max(backward, 16 * tokens * (layer.queries + layer.keys))
        head, head_gradient = self._head(value, block_size)
        working = max(head, backward + (value * layer.largest if recipe.quantization else 0))
        weights = self._weights(stored)
        exchange = gradients if self.processes > 1 else 0
        constant = weights + optimizer + exchange
        kept_gradients = gradients if steps.accumulation > 1 else head_gradient
        allocator = _ALLOCATOR if self.device == "cpu" else 0
        peak = (
            constant
            + allocator
            + max(
                kept_gradients + copies + activations + mask + working,
                kept_gradients + making + mask,
                gradients + (kept if checkpointed else 0),
                gradients + (6 * value * layer.largest if steps.optimizer == "muon" else 0),
            )
        )
        return Memory(weights, copies, gradients, optimizer, activations, mask, head, exchange, allocator, peak)

    def _weights(self, stored: int) -> int:
        """Bytes of all weights, including the adapters."""
        base = sum(p.numel() for name, p in self.network.named_parameters() if name not in self.trained)
        if not self.recipe.lora:
            return stored * self.network.num_parameters()
        kept_as = _QUANTISED_BYTES.get(self.recipe.quantization or "", stored)
        matrices = self.layer.matrices
        return round(kept_as * matrices + stored * (base - matrices)) + sum(
            4 * p.numel() for p in self.trained.values()
        )

    def _head(self, value: int, block_size: int) -> tuple[int, int]:
        """Bytes of a chunk of logits with its temporaries, and of the gradient of the head's weights."""
        vocabulary, hidden = self.network.get_output_embeddings().weight.shape
        chunk = min(chunk_rows(vocabulary), max(self.scored_positions(block_size)))
        # Logits, the same in float32, log-probabilities, and the gradients of the first two.
        logits = chunk * vocabulary * (2 * value + 12)
        trained = not self.recipe.lora
        return logits + vocabulary * hidden * value * (2 if trained else 1), 4 * vocabulary * hidden * trained


def measure_matmul(device: str, precision: str, layer: Layer, tokens: int, seconds: float = 1.0) -> float | None:
    """Floating-point operations per second of a product with a layer's sizes; None without such a device."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    large = 4096 if device == "cuda" else 1024  # on a CPU, one product of a large layer would take seconds
    sizes = [max(1, min(size, large)) for size in (tokens, layer.hidden, layer.feed_forward)]
    left = torch.randn(sizes[0], sizes[1], device=device).to(dtype)
    right = torch.randn(sizes[1], sizes[2], device=device).to(dtype)
    torch.mm(left, right)
    if device == "cuda":
        torch.cuda.synchronize()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(20 if device == "cuda" else 1):
            torch.mm(left, right)
            done += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return done * 2 * sizes[0] * sizes[1] * sizes[2] / (time.perf_counter() - started)


def memory_of_machine(device: str) -> int | None:
    """Total memory of the device in bytes; None without such a device."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def table(found: Estimate, device: str) -> str:
    """The text of an estimate."""
    memory, first, last = found.memory, found.work_first, found.work_last
    share = 100 * found.trained_parameters / found.parameters
    rows: list[tuple[str, str]] = [
        ("model", found.model),
        ("parameters", f"{found.parameters:,}"),
        ("trained", f"{found.trained_parameters:,} ({share:.3g} % of the base's)"),
        ("one forward", f"{found.rows} rows of {found.noised_tokens} noised + {found.clean_tokens} clean tokens"),
        ("one step", f"{found.tokens_per_step:,} clean tokens, {found.max_steps:,} steps"),
        ("", ""),
        ("memory", "of one process"),
        *((f"  {name.replace('_', ' ')}", _gigabytes(size)) for name, size in asdict(memory).items() if size),
    ]
    available = memory_of_machine(device)
    if available is not None:
        needed = memory.peak + (PROGRAM if device == "cpu" else 0)
        verdict = "fits" if needed < 0.9 * available else "does not fit; see optimisation.gradient_checkpointing, lora"
        rows.append(("  this machine", f"{_gigabytes(available)}: {verdict}"))
    rows += [("", ""), ("operations", "of one step of one process, at the first and the last block size")]
    for name in ("layers", "attention", "head", "recomputed", "total"):
        if getattr(last, name):
            rows.append((f"  {name}", f"{getattr(first, name) / 1e12:10.3f} {getattr(last, name) / 1e12:10.3f} TFLOP"))
    rows.append(("", ""))
    if found.seconds is None:
        rows.append(("time", f"unknown: this machine has no {device} device to measure; give --flops"))
    else:
        rate = found.matmul_flops_per_second / 1e9
        rows += [
            ("time", f"at {rate:,.0f} GFLOP/s of matrix products, at least"),
            ("  a step", f"{duration(found.seconds_per_step_first)} to {duration(found.seconds_per_step_last)}"),
            ("  the run", duration(found.seconds)),
        ]
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:16}{value}".rstrip() for name, value in rows)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:10.3f} GiB"
