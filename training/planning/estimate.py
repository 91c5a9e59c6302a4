"""Estimate memory and time of a run from the shape of its base, without its weights.

The activations of a layer are in `layer_sizes`; this module adds weights, optimiser, masks, head and allocator. With
gradient checkpointing, every layer saves only its input (D values per token), and one layer at a time all its
activations. The time is the number of floating-point operations at a measured rate of matrix products. It is a lower
bound: small networks on a CPU take much longer, large ones a little longer.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from nbdiff_engine.errors import SettingError, brief
from training.data.data_settings import SELF
from training.data.self_generated import BATCH
from training.model.adapters import add_adapters
from training.model.precision import loads_float32, with_precision
from training.objective.attention_choice import choose_attention
from training.objective.attention_plan import pairs
from training.objective.objective import chunk_rows
from training.planning.costs import Memory, Work
from training.planning.counted_data import DataContent, RowContent
from training.planning.layer_sizes import Layer
from training.planning.machine_speed import measure_matmul
from training.planning.shapes import BaseShape, find_shape, shape_of_new
from training.planning.without_weights import open_without_weights
from training.recipe.recipe import Recipe
from training.run.run_length import with_steps

_MASK_TEMPORARIES = 6  # boolean B x S x S tensors in memory while the mask is computed
_BACKWARD_SHARE = 0.5  # memory of gradients in a layer's backward, as a share of its activations
_QUANTISED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}  # nf4: one float32 scale for 64 weights
# glibc keeps freed pieces of up to 32 MB: 34 to 203 MiB in three runs, more with more activations.
_ALLOCATOR, _ALLOCATOR_SHARE, _ALLOCATOR_MOST = 50 * 2**20, 0.2, 2**28
# With LoRA, what stays of a checkpointed layer cuts the pieces that it frees. By mallinfo2, 131 MiB stayed free of
# 4 layers of 33 MiB, 630 MiB of 30 layers of 31 MiB, and 2.3 GiB of 30 layers of about 135 MiB.
_CUT_SHARE, _LARGEST_PIECE = 0.6, 2**25  # glibc returns larger pieces when they are freed
_PROGRAM = 475 * 2**20  # Python, torch, transformers, accelerate and datasets, before the weights are loaded
_PEFT = 55 * 2**20
# The attention forward has 2 products of S x S x Q; its backward recomputes one and has four more.
_ATTENTION_BACKWARD = 2.5
_FLEX_TILE = 128  # FlexAttention computes or skips tiles of so many queries and keys


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
    seconds: float | None  # of all steps
    seconds_evaluating: float | None  # of all evaluations
    seconds_writing: float | None  # for data `self`: of its documents, if all have their full length; 0 if there are
    about_data: str  # how the tokens of a row were found

    @property
    def seconds_in_all(self) -> float | None:
        """Of the whole run: writing data, steps and evaluations."""
        return None if self.seconds is None else self.seconds + self.seconds_evaluating + self.seconds_writing

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        for name in ("work_first", "work_last"):
            fields[name]["total"] = getattr(self, name).total
        fields["memory"]["process"] = self.memory.process
        fields["seconds_in_all"] = self.seconds_in_all
        return fields


def estimate(
    recipe: Recipe,
    device: str = "cpu",
    flops: float | None = None,
    noised_share: float = 1.0,
    processes: int = 1,
    from_data: bool = False,
) -> Estimate:
    """Estimate a run of a recipe.

    flops: floating-point operations per second of matrix products. None: measured on this machine; without such a
        device the estimate has no times.
    noised_share: noised tokens per clean token. 1 for plain text; `preview` prints it for other data.
    from_data: count the tokens of the rows in the recipe's data, instead of `noised_share`.

    A recipe with `epochs` has its steps counted from its data, as a run does.

    Raises SettingError for an argument out of range, RecipeError or CheckpointError for a missing base, and DataError
    if the data cannot be read.
    """
    if not 0 <= noised_share <= 4:
        raise SettingError(f"noised_share is {brief(noised_share)}; it must be from 0 to 4.")
    if processes < 1:
        raise SettingError(f"processes is {brief(processes)}; it must be at least 1.")
    if flops is not None and not flops > 0:
        raise SettingError(f"flops is {brief(flops)}; it must be above 0.")
    recipe = with_precision(recipe, device)
    opened, held_out = None, recipe.data.held_out
    if from_data or recipe.optimisation.epochs is not None:
        opened = open_without_weights(recipe)
        held_out = min(held_out, opened.held_out)  # few documents hold out fewer
        recipe = with_steps(recipe, opened.model, opened.train, processes)
    shape = _shape(recipe)
    network = shape.network()
    parameters, layer = network.num_parameters(), Layer.of(network)
    if recipe.lora:
        add_adapters(network, recipe.lora, None if recipe.drafts else 0, 0)
    trained = {name: each for name, each in network.named_parameters() if each.requires_grad}
    steps = recipe.optimisation
    clean = min(steps.packed_length, shape.config.max_position_embeddings)
    adapts = recipe.kind == "adapt"
    grows = opened is not None and device == "cpu" and recipe.kind == "adapt"
    replaced = shape.replaced_values(opened.model.network) if grows else 0
    content = DataContent.assumed(clean, noised_share, adapts)
    if from_data:
        content = DataContent.counted(recipe, opened.model, opened.train)
    rows = steps.rows * (2 if recipe.objective.complementary_masks else 1)
    if choose_attention(network, recipe.attention, device) != "documents":  # then padding is computed too
        padded = RowContent(clean, content.padded_noised, content.mean.documents)
        content = replace(content, mean=padded, fullest=padded)
    sizes, fullest = (
        _Sizes(recipe, shape, network, layer, trained, rows, row, held_out, replaced, processes, device)
        for row in (content.mean, content.fullest)
    )
    last = steps.max_steps
    phases = recipe.blocks.over(last).phases(last) if adapts else [(0, last, 1)]
    writing = _tokens_to_write(recipe)
    speed = flops
    if flops is None:
        flops = measure_matmul(device, recipe.precision, layer, rows * (content.mean.clean + content.mean.noised))
    if writing and speed is None:  # products with few rows are slower
        speed = measure_matmul(device, recipe.precision, layer, min(BATCH, recipe.data.self_data.documents))
    seconds = None if flops is None else [sizes.work(size).total / flops for _, _, size in phases]
    return Estimate(
        model=shape.name,
        parameters=parameters,
        trained_parameters=sum(each.numel() for each in trained.values()),
        rows=rows,
        clean_tokens=content.mean.clean,
        noised_tokens=content.mean.noised if phases[-1][2] > 1 or not recipe.objective.token_shift else 0,
        tokens_per_step=steps.rows * steps.accumulation * processes * content.mean.clean,
        max_steps=steps.max_steps,
        memory=fullest.memory(max(size for _, _, size in phases)),
        work_first=sizes.work(phases[0][2]),
        work_last=sizes.work(phases[-1][2]),
        matmul_flops_per_second=flops,
        seconds_per_step_first=seconds[0] if seconds else None,
        seconds_per_step_last=seconds[-1] if seconds else None,
        seconds=sum((end - first) * each for (first, end, _), each in zip(phases, seconds, strict=True))
        if seconds
        else None,
        seconds_evaluating=sizes.evaluations() / processes / flops if flops else None,
        seconds_writing=2 * parameters * writing / speed if speed else (None if writing else 0.0),
        about_data=content.about,
    )


def _tokens_to_write(recipe: Recipe) -> int:
    """For `--data self`: the most tokens that the base writes before the first step; 0 for other data."""
    own = recipe.data.self_data
    return own.documents * own.max_new_tokens if recipe.data.source == SELF else 0


def _shape(recipe: Recipe) -> BaseShape:
    if recipe.kind == "pretrain":
        return shape_of_new(recipe.network, "the new network")
    recipe.require_inputs(data=False)
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
    row: RowContent
    held_out: int  # documents
    replaced: int  # values of an embedding that a larger one replaces; 0 if that is not known
    processes: int
    device: str

    @property
    def clean(self) -> int:
        return self.row.clean

    @property
    def noised(self) -> int:
        return self.row.noised

    @property
    def attention(self) -> str:
        return choose_attention(self.network, self.recipe.attention, self.device)

    @property
    def documents(self) -> bool:
        """Whether the run uses the attention `documents`."""
        return self.attention == "documents"

    def pairs(self, block_size: int) -> tuple[int, int]:
        """Query-key pairs that `documents` computes for a row, and how many of them are masked parts."""
        number = max(1.0, self.row.documents)
        clean, noised = self.clean / number, (self.length(block_size) - self.clean) / number
        found = pairs(max(1, round(clean)), round(noised), block_size)
        return round(number * found[0]), round(number * found[1])

    def computed_pairs(self, block_size: int) -> int:
        """Query-key pairs that the attention computes for a row."""
        length = self.length(block_size)
        if self.attention == "documents":
            return self.pairs(block_size)[0]
        if self.attention == "dense":
            return length * length
        # Half of the pairs with the clean tokens of the same document, and the tiles on the border.
        return round(length * (self.clean / max(1.0, self.row.documents) / 2 + min(_FLEX_TILE, length)))

    def evaluations(self) -> float:
        """Operations of all evaluations, of all processes: before the first step, at intervals, and at the end.

        The last one measures every block size, the others those of the step and of the end, as `Evaluator` does.
        """
        every, steps = self.recipe.saving.eval_every, self.recipe.optimisation.max_steps
        if self.recipe.kind == "pretrain":
            return (1 + (-(-steps // every) if every else 0)) * self.evaluation(1)
        schedule, largest = self.recipe.blocks.over(steps), self.recipe.blocks.b_max
        sizes = [*{size for _, size in schedule.stages} | {1}]
        for step in range(0, steps, every) if every else ():
            sizes += {schedule.at(max(step - 1, 0)), largest}
        if self.recipe.drafts:  # at the last block size only
            sizes = [largest] * (1 + (-(-steps // every) if every else 0))
        return sum(count * self.evaluation(size) for size, count in Counter(sizes).items())

    def evaluation(self, block_size: int) -> float:
        """Operations of an evaluation at one block size, of all processes: a forward of the held-out documents."""
        work = self.work(block_size)
        passes = 3 if self.recipe.lora else 4
        layers = work.layers / (2 if self.recipe.lora else 3)
        if self.recipe.drafts:  # the clean pass has no backward
            layers += self.recipe.optimisation.accumulation * self.rows * self.clean * self.layer.matrices
        forward = layers + work.attention / (1 + _ATTENTION_BACKWARD) + work.head / passes
        copies = 2 if self.recipe.objective.complementary_masks else 1
        step = self.rows / copies * self.recipe.optimisation.accumulation  # rows of the data
        return forward * self.held_out / max(1.0, self.row.documents) / step

    def length(self, block_size: int) -> int:
        """Tokens per row of the forward pass. With blocks of one token nothing is noised."""
        plain = block_size == 1 and self.recipe.objective.token_shift
        return self.clean + (0 if plain else self.noised)

    def kept_tokens(self, block_size: int) -> int:
        """Tokens whose activations are kept for the backward pass: none of a draft adapter's clean pass."""
        return self.rows * (self.noised if self.recipe.drafts else self.length(block_size))

    def scored_positions(self, block_size: int) -> tuple[int, int]:
        """Scored positions of a forward: next tokens, and masked tokens (a share of E[t] = 1/2)."""
        if self.recipe.kind == "pretrain":
            return self.rows * self.clean, 0
        if self.recipe.drafts:
            return 0, self.rows * self.noised
        answered = min(self.clean, self.noised)
        next_tokens = answered if self.recipe.objective.context == "token_causal" else answered // block_size
        can = 1 - 1 / block_size if self.recipe.objective.token_shift else 1.0
        return self.rows * next_tokens, round(self.rows * self.noised * can / 2)

    def work(self, block_size: int) -> Work:
        length, layer = self.length(block_size), self.layer
        repeats = self.recipe.optimisation.accumulation
        tokens = self.kept_tokens(block_size)
        alone = 2 * (self.rows * length - tokens) * layer.matrices  # a clean pass without backward
        adapters = sum(each.numel() for name, each in self.trained.items() if "lora" in name)
        once = 2 * tokens * (layer.matrices + adapters)
        weights = once if not self.recipe.lora else 2 * tokens * adapters
        attention = 4 * self.rows * self.computed_pairs(block_size) * layer.queries * layer.number
        vocabulary, hidden = self.network.get_output_embeddings().weight.shape
        passes = 3 if self.recipe.lora else 4  # forward, again in the backward, inputs' gradients, weights' gradients
        again = once + attention if self.recipe.optimisation.gradient_checkpointing else 0
        return Work(
            layers=repeats * (2 * once + weights + alone),
            attention=round(repeats * attention * (1 + _ATTENTION_BACKWARD * tokens / max(1, self.rows * length))),
            head=repeats * passes * 2 * sum(self.scored_positions(block_size)) * vocabulary * hidden,
            recomputed=repeats * again,
        )

    def memory(self, block_size: int) -> Memory:
        recipe, layer, steps = self.recipe, self.layer, self.recipe.optimisation
        autocast = recipe.precision == "bf16"
        stored = 4 if loads_float32(recipe) else self.shape.dtype.itemsize
        value = 2 if autocast else stored  # bytes of an arithmetic value in the layers
        length, tokens = self.length(block_size), self.kept_tokens(block_size)
        number = sum(each.numel() for each in self.trained.values())
        gradients = 4 * number
        optimizer = 8 * number
        if steps.optimizer == "muon":  # one momentum for the matrices of the layers, see optimizers.py
            optimizer -= 4 * sum(p.numel() for name, p in self.trained.items() if p.ndim == 2 and ".layers." in name)
        kept = tokens * layer.kept(stored, autocast, recipe.lora.rank if recipe.lora else None, self.documents)
        if getattr(self.network.config, "attention_dropout", 0):  # SDPA then saves its scores before and after dropout
            kept += 2 * tokens * layer.heads * length * value
        copied = layer.matrices if autocast and stored == 4 and not self.split else 0
        residual = 4 if value < 4 and not recipe.lora else stored
        checkpointed = steps.gradient_checkpointing
        activations = tokens * layer.hidden * residual * layer.number + kept if checkpointed else kept * layer.number
        copies = value * (copied // layer.number if checkpointed else copied)
        # Outside the layers: the embedding, the last norm, rotary angles, and a copy of the scored positions.
        activations += tokens * (layer.hidden * (residual + 8) + 8 * layer.queries // layer.heads)
        activations += 4 * layer.hidden * sum(self.scored_positions(block_size))
        # Keys and values of a clean pass, and its last hidden states.
        activations += (self.rows * length - tokens) * (2 * layer.keys * layer.number + layer.hidden) * value
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
        head, head_gradient = self._head(value, stored, block_size)
        working = max(head, backward + (value * layer.largest if recipe.quantization else 0))
        weights = self._weights(stored)
        exchange = gradients if self.processes > 1 else 0
        if self.split:
            exchange = self._gathered(value, number)
            weights, gradients, optimizer = (-(-each // self.processes) for each in (weights, gradients, optimizer))
            head_gradient = 0  # a part of what is gathered
        constant = weights + optimizer + exchange + stored * self.replaced
        kept_gradients = gradients if steps.accumulation > 1 else head_gradient
        allocator = program = 0
        if self.device == "cpu":
            program = _PROGRAM + _PEFT * bool(recipe.lora)
            freed = kept * (layer.number - 1) if checkpointed else 0
            allocator = min(_ALLOCATOR_MOST, round(_ALLOCATOR + _ALLOCATOR_SHARE * (activations + freed)))
            if checkpointed and recipe.lora:
                freed = layer.in_pieces(_LARGEST_PIECE, kept, tokens, value) * (layer.number - 1)
                allocator = max(allocator, round(_ALLOCATOR + _CUT_SHARE * freed))
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
        return Memory(
            weights, copies, gradients, optimizer, activations, mask, head, exchange, allocator, program, peak
        )

    @property
    def split(self) -> bool:
        """Whether each process has a part of every weight."""
        return self.recipe.shard and self.processes > 1

    def _gathered(self, value: int, trained: int) -> int:
        """Bytes of the weights that FSDP2 gathers at once, and of their gradients before they are summed into parts: of
        all outside the layers, of one layer, and of the next one, which is gathered meanwhile."""
        layer, total = self.layer.matrices // self.layer.number, self.network.num_parameters()
        outside = total - self.layer.matrices
        return value * (outside + 2 * layer) + round(4 * (outside + layer) * min(1.0, trained / total))

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

    def _head(self, value: int, stored: int, block_size: int) -> tuple[int, int]:
        """Bytes of a chunk of logits with its temporaries, and of the gradient of the head's weights."""
        vocabulary, hidden = self.network.get_output_embeddings().weight.shape
        chunk = min(chunk_rows(vocabulary), max(self.scored_positions(block_size)))
        # In float32: log-probabilities, their gradient, and that of the logits, which are freed by then.
        logits = 12 * chunk * vocabulary
        trained = not self.recipe.lora
        copies = (value < stored) + trained  # a cast of the weights, and their gradient in a chunk
        return logits + vocabulary * hidden * value * copies, 4 * vocabulary * hidden * trained
