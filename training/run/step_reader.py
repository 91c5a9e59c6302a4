"""The batches of each step: packed and noised rows, as a function of the recipe, the step and a cursor."""

import random
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from nbdiff_engine.model.attention import PADDING
from training.data.documents import Document, DocumentSource
from training.data.packing import Cursor, Packer
from training.errors import DataError
from training.model.base import TrainedModel
from training.objective.draft_noising import DraftBatch, DraftNoising, draft_noise
from training.objective.noising import Batch, Noising, Packed, noise, target_count
from training.recipe.recipe import Recipe


def packed_length(recipe: Recipe, model: TrainedModel) -> int:
    """Tokens of a packed row: the recipe's packed length, at most the model's context length."""
    return min(recipe.optimisation.packed_length, model.context_length)


def packer_of(recipe: Recipe, model: TrainedModel, source: DocumentSource) -> Packer:
    """The Packer of a run for the documents of a source."""
    largest = recipe.blocks.b_max if recipe.kind == "adapt" else 1
    return Packer(source, packed_length(recipe, model), recipe.seed, largest)


def noising_of(recipe: Recipe, model: TrainedModel, block_size: int, multiple: int = 1) -> Noising:
    """The Noising of a run for a block size. Pretraining uses block size 1, with which nothing is noised.

    multiple: the noised half is padded to a multiple of this length.
    """
    objective = recipe.objective
    return Noising(
        block_size=block_size,
        mask_token_id=model.spec.mask_token_id if model.spec else 0,
        shift=int(objective.token_shift),
        at_least_one=objective.at_least_one_mask,
        complementary=objective.complementary_masks,
        ending_ids=frozenset(model.eos_token_ids),
        multiple=multiple,
    )


def draft_noising_of(recipe: Recipe, model: TrainedModel, block_size: int) -> DraftNoising:
    """The noise rows of a run of a draft adapter for a block size."""
    draft = recipe.draft
    high = draft.high(vocabulary_of(model))
    return DraftNoising(block_size, high, draft.all_noise, min(draft.groups, block_size - 1), draft.decay)


def vocabulary_of(model: TrainedModel) -> int:
    """The number of token ids that the tokenizer has and the network reads."""
    rows = model.network.get_input_embeddings().weight.shape[0]
    return min(rows, max(model.tokenizer.get_vocab().values()) + 1)


def noised(packed: Packed, how: Noising, recipe: Recipe, seed: int) -> Batch:
    """The input of a forward for packed rows: a function of the rows, the noising and the seed."""
    return noise(packed, how, torch.Generator().manual_seed(seed), recipe.objective.context)


def seed_of(recipe: Recipe, *what: str | int) -> int:
    """The seed (62 bits) of one random draw of a run. what: the key of the draw, such as "noise", step, micro-batch."""
    return random.Random("/".join(map(str, (recipe.seed, *what)))).getrandbits(62)


@dataclass(frozen=True, slots=True)
class Step:
    """The data of one optimiser step."""

    # This process's micro-batches; process p has p, p + processes, ... of all.
    batches: list[Batch] | list[DraftBatch]
    block_size: int
    # The sums of the losses are divided by it; at least 1. For a draft adapter: the weights of this process's rows
    # only, which must be summed over all processes.
    target_count: float
    tokens: int  # clean tokens, without padding
    cursor: Cursor  # where the next step starts to read


class StepReader:
    """Reads the data of a run's steps. A thread prepares the next step while the current one is computed.

    Use it as a context manager, which ends the thread.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: TrainedModel,
        train: DocumentSource,
        held_out: DocumentSource | None,
        processes: int,
        multiple: int,
        process: int = 0,
    ):
        """processes: number of processes of the run; this is number `process`. multiple: as in `noising_of`.

        Every process packs the rows of all, because a document goes into the first row with room, and noises its own.
        With a `SharedSource` it encodes only its part of the documents.
        """
        self.recipe = recipe
        self.model = model
        self.multiple = multiple
        steps = recipe.optimisation
        self.forwards = steps.accumulation * processes  # per step, over all processes
        self.own = range(process, self.forwards, processes)  # the micro-batches of this process
        self.rows_per_step = steps.rows * self.forwards
        self.schedule = recipe.blocks.over(steps.max_steps) if recipe.kind == "adapt" else None
        self.packer = packer_of(recipe, model, train)
        self.held_out = packer_of(recipe, model, held_out) if held_out is not None and len(held_out) else None
        # One thread reads everything, because packers and tokenizers are not thread-safe.
        self._thread = ThreadPoolExecutor(1, "batches")
        self._prefetched: Future[Step] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def take(self, step: int, cursor: Cursor) -> Step:
        """The data of a step, read from `cursor`. Starts to prefetch the next step.

        Every call after the first must be for the step after that of the call before.
        """
        future = self._prefetched or self._thread.submit(self._read, step, cursor)
        current = future.result()
        more = step + 1 < self.recipe.optimisation.max_steps
        self._prefetched = self._thread.submit(self._read, step + 1, current.cursor) if more else None
        return current

    def held_out_rows(self) -> list[Packed]:
        """The recipe's number of held-out documents in batches of one packed row; empty if there are none."""
        if self.held_out is None:
            return []
        documents = min(self.recipe.data.held_out, len(self.held_out.source))
        return self._thread.submit(lambda: list(self.held_out.all_rows(documents))).result()

    def held_out_documents(self, count: int) -> list[Document]:
        """The first `count` held-out documents that can be encoded."""

        def read() -> list[Document]:
            found = []
            source = self.held_out.source
            for index in range(min(self.recipe.data.held_out, len(source))):
                if len(found) == count:
                    break
                with suppress(DataError):  # `held_out_rows` counts and reports it
                    found.append(source[index])
            return found

        return [] if self.held_out is None else self._thread.submit(read).result()

    def batch_of(self, packed: Packed, block_size: int, seed: int, evaluated: bool = False) -> Batch | DraftBatch:
        """Packed rows as the input of a forward. evaluated: noise rows as an evaluation of drafts needs them."""
        if not self.recipe.drafts:
            return noised(packed, self.noising(block_size), self.recipe, seed)
        how = draft_noising_of(self.recipe, self.model, block_size)
        return draft_noise(packed, how.for_evaluation() if evaluated else how, torch.Generator().manual_seed(seed))

    def noising(self, block_size: int) -> Noising:
        """The Noising of this run for a block size."""
        return noising_of(self.recipe, self.model, block_size, self.multiple)

    def _read(self, step: int, cursor: Cursor) -> Step:
        """The data of a step."""
        rows = self.recipe.optimisation.rows
        block_size = self.schedule.at(step) if self.schedule else 1
        packed, cursor = self.packer.batch(cursor, self.rows_per_step)
        batches = [
            self.batch_of(
                packed.rows(part * rows, (part + 1) * rows), block_size, seed_of(self.recipe, "noise", step, part)
            )
            for part in self.own
        ]
        return Step(
            batches, block_size, self._target_count(packed, batches), int((packed.document != PADDING).sum()), cursor
        )

    def _target_count(self, packed: Packed, batches: list[Batch] | list[DraftBatch]) -> float:
        """`Step.target_count` of the packed rows of a step and this process's batches of them."""
        if self.recipe.drafts:
            return sum(each.target_count for each in batches)
        return max(1, target_count(packed) * (2 if self.recipe.objective.complementary_masks else 1))
