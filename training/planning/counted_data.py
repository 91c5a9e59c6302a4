"""What packed rows of a run contain, counted from its data as `preview` does; without data, an assumption."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nbdiff_engine.model.attention import PADDING
from training.data.documents import DocumentSource
from training.data.packing import Cursor
from training.model.base import TrainedModel
from training.objective.draft_noising import draft_noise
from training.objective.noising import Packed
from training.recipe.recipe import Recipe
from training.run.step_reader import draft_noising_of, noised, noising_of, packer_of, seed_of

_FORWARDS = 16  # forwards that are packed and noised
_ROWS = 256  # at most so many rows in all of them


@dataclass(frozen=True, slots=True)
class RowContent:
    """The tokens of one packed row, without padding, and its documents."""

    clean: int
    noised: int  # at the run's largest block size
    documents: float = 1.0


@dataclass(frozen=True, slots=True)
class DataContent:
    """The rows of a run."""

    mean: RowContent
    fullest: RowContent  # a row of the forward with the most tokens
    padded_noised: int  # the length of the longest noised half, with its padding
    about: str  # how it was found, in words

    @classmethod
    def assumed(cls, clean: int, noised_share: float, noises: bool) -> "DataContent":
        """Full rows of one document each, with this share of noised tokens. noises: false for pretrain."""
        row = RowContent(clean, round(clean * noised_share) if noises else 0)
        return cls(row, row, row.noised, f"not counted: {noised_share:g} noised tokens per clean token, full rows")

    @classmethod
    def counted(cls, recipe: Recipe, model: TrainedModel, source: DocumentSource) -> "DataContent":
        """The first rows of a run. model, source: as `open_without_weights` opens them. Raises DataError."""
        packer = packer_of(recipe, model, source)
        rows = recipe.optimisation.rows
        cursor, found, width = Cursor(), [], 0
        for number in range(max(1, min(_FORWARDS, _ROWS // rows))):
            packed, cursor = packer.batch(cursor, rows)
            there = _noised_tokens(recipe, model, packed, seed_of(recipe, "estimate", number))
            copies = len(there) // rows  # 2 with complementary masks
            documents = sum(int(each.max()) + 1 for each in packed.document)
            found.append((int((packed.document != PADDING).sum()), int(there.sum()) / copies, documents))
            width = max(width, there.shape[1])
        rows_counted = rows * len(found)
        mean = [sum(each) / rows_counted for each in zip(*found, strict=True)]
        most = [each / rows for each in max(found, key=lambda each: each[0] + each[1])]
        return cls(
            RowContent(round(mean[0]), round(mean[1]), mean[2]),
            RowContent(round(most[0]), round(most[1]), most[2]),
            width,
            f"counted in {rows_counted} packed rows of {source.name}: {mean[1] / mean[0]:.2f} noised tokens per clean "
            f"token, {mean[2]:.1f} documents a row",
        )


def _noised_tokens(recipe: Recipe, model: TrainedModel, packed: Packed, seed: int) -> Tensor:
    """Which columns of the noised half of packed rows hold a token, at the run's largest block size: bool [B, N]."""
    if recipe.drafts:
        how = draft_noising_of(recipe, model, recipe.blocks.b_max)
        return draft_noise(packed, how, torch.Generator().manual_seed(seed)).document != PADDING
    noising = noising_of(recipe, model, recipe.blocks.b_max if recipe.kind == "adapt" else 1)
    batch = noised(packed, noising, recipe, seed)
    return batch.tokens.document[:, : batch.mdm_targets.shape[1]] != PADDING
