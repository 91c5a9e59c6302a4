"""The preview of a recipe as data for a picture: documents, their noised blocks, and the training mask.

`preview` gives the same as text.
"""

from dataclasses import dataclass

from training.planning import preview
from training.planning.preview import FILL, MASK, MaskRow, Preview
from training.recipe.recipe import Recipe

_MOST_BLOCKS = 40  # of an answer


@dataclass(frozen=True, slots=True)
class PicturedToken:
    """A token of a noised copy. masked: the model must predict it. fill: after the end of the answer."""

    text: str
    masked: bool
    fill: bool


@dataclass(frozen=True, slots=True)
class PicturedAnswer:
    """An answer: its text, and its noised copy block by block. cut: whether there are more blocks."""

    text: str
    blocks: tuple[tuple[PicturedToken, ...], ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class PicturedDocument:
    """parts: texts of the context, and answers, in their order."""

    tokens: int
    parts: tuple[str | PicturedAnswer, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """about, about_mask: sentences. documents and mask are empty for a draft adapter, which `text` describes.

    mask_block: the block size of the drawn mask. figures: counts over the first documents, one per line.
    """

    about: str
    about_mask: str
    block_size: int
    documents: tuple[PicturedDocument, ...]
    mask: tuple[MaskRow, ...]
    mask_block: int
    figures: str
    text: str = ""


def picture(recipe: Recipe, count: int = 2) -> Picture:
    """The preview of a recipe, with `count` documents. Raises NBDiffError if the run could not start."""
    if recipe.drafts:
        return Picture("", "", 0, (), (), 0, "", text=preview.preview(recipe, count))
    size = recipe.blocks.b_max if recipe.kind == "adapt" else 1
    shown = Preview.of(recipe, size)
    drawn = min(size, preview.DRAWN_BLOCK)
    return Picture(
        about=preview.head_of(shown, size),
        about_mask=shown.about_mask,
        block_size=size,
        documents=_documents(shown, count),
        mask=tuple(preview.drawn_mask(shown, drawn)) if size > 1 else (),
        mask_block=drawn,
        figures=preview.figures(shown),
    )


def _documents(shown: Preview, count: int) -> tuple[PicturedDocument, ...]:
    packed, batch, places = preview.first_documents(shown, count)
    found = []
    for row, number in places:
        runs = preview.runs_of(packed, row, number)
        answers = [ids for start, ids in runs if start >= 0]
        noised: list[list[tuple[int, str]]] = [[] for _ in answers]
        if batch.mdm_targets.shape[1]:
            columns = preview.noised_columns(batch, row, number)
            noised = preview.noised_answers(shown, batch, row, columns, answers)
        copies = iter(noised)
        parts = tuple(
            _answer(shown, ids, next(copies)) if start >= 0 else shown.text(ids) for start, ids in runs if ids
        )
        found.append(PicturedDocument(sum(len(ids) for _, ids in runs), parts))
    return tuple(found)


def _answer(shown: Preview, ids: list[int], noised: list[tuple[int, str]]) -> PicturedAnswer:
    size = shown.noising.block_size
    tokens = [PicturedToken(shown.text([token]), mark == MASK, mark == FILL) for token, mark in noised]
    blocks = [tuple(tokens[at : at + size]) for at in range(0, len(tokens), size)]
    return PicturedAnswer(shown.text(ids), tuple(blocks[:_MOST_BLOCKS]), len(blocks) > _MOST_BLOCKS)
