"""The preview of a job's data as a picture: documents, their noised blocks, and the training mask; all text escaped."""

import html
from collections.abc import Sequence

from training.planning.preview import MaskRow
from training.planning.preview_picture import Picture, PicturedAnswer, PicturedDocument

_CELL = 13  # pixels
_LABELS = 118  # pixels left of the mask
_MOST_CHARS = 600  # of a context or an answer


def preview_html(picture: Picture) -> str:
    """The picture as HTML."""
    if picture.text:
        return f'<pre tabindex="0" aria-label="Preview of the data">{html.escape(picture.text)}</pre>'
    documents = "".join(_document(number, each, picture) for number, each in enumerate(picture.documents, start=1))
    legend = (
        '<p class="legend"><span class="block"><span class="t masked">&nbsp;</span></span> masked: the model predicts '
        'this token <span class="block"><span class="t fill">·</span></span> fill: after the end of the answer, up to '
        "the full block</p>"
    )
    figures = f'<pre tabindex="0" aria-label="Counts">{html.escape(picture.figures)}</pre>'
    about = f"<p>{html.escape(picture.about)}. {html.escape(picture.about_mask)}.</p>"
    return f'<div class="preview">{about}{documents}{legend}{_mask(picture)}{figures}</div>'


def _document(number: int, document: PicturedDocument, picture: Picture) -> str:
    parts = "".join(_part(part, picture) for part in document.parts)
    return f"<section><h4>Document {number}, {document.tokens:,} tokens</h4>{parts}</section>"


def _part(part: str | PicturedAnswer, picture: Picture) -> str:
    if isinstance(part, str):
        return f'<p class="context"><b>Given</b> {_cut(part)}</p>'
    clean = f"<p><b>Answer</b> {_cut(part.text)}</p>"
    if not part.blocks:
        return clean
    blocks = "".join(_block(block) for block in part.blocks)
    more = " …" if part.cut else ""
    label = f"Noised, blocks of {picture.block_size}"
    return f'{clean}<div class="noised"><b>{label}</b> {blocks}{more}</div>'


def _block(block: Sequence) -> str:
    tokens = "".join(
        '<span class="t masked">&nbsp;</span>'
        if token.masked
        else f'<span class="t{" fill" if token.fill else ""}">{"·" if token.fill else html.escape(token.text)}</span>'
        for token in block
    )
    return f'<span class="block">{tokens}</span>'


def _mask(picture: Picture) -> str:
    """The attention mask as SVG: a row for each token, with a square for each token that it attends to."""
    rows = picture.mask
    if not rows:
        return ""
    noised = sum(row.noised for row in rows)
    side = _CELL * len(rows)
    squares = "".join(
        f'<rect x="{_LABELS + _CELL * x}" y="{_CELL * (y + 1)}" width="{_CELL - 1}" height="{_CELL - 1}" '
        f'class="{"n" if x < noised else "c"}"/>'
        for y, row in enumerate(rows)
        for x, sees in enumerate(row.sees)
        if sees
    )
    labels = "".join(
        f'<text x="{_LABELS - 6}" y="{_CELL * (y + 2) - 3}" text-anchor="end">{html.escape(_label(row))}</text>'
        for y, row in enumerate(rows)
    )
    lines = "".join(
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
        for x1, y1, x2, y2 in (
            (_LABELS, _CELL * (noised + 1) - 0.5, _LABELS + side, _CELL * (noised + 1) - 0.5),
            (_LABELS + _CELL * noised - 0.5, _CELL, _LABELS + _CELL * noised - 0.5, _CELL + side),
        )
    )
    heads = (
        f'<text x="{_LABELS + _CELL * noised / 2}" y="9" text-anchor="middle">noised</text>'
        f'<text x="{_LABELS + _CELL * (noised + len(rows)) / 2}" y="9" text-anchor="middle">clean</text>'
    )
    return (
        f"<figure><figcaption>Who attends to whom in training, with blocks of {picture.mask_block}: a token (row) "
        "attends to the filled squares. The upper rows are the noised copy, the lower ones the clean text.</figcaption>"
        f'<svg role="img" aria-label="Training mask of one document" viewBox="0 0 {_LABELS + side} {side + _CELL + 2}" '
        f'width="{_LABELS + side}">{squares}{lines}{labels}{heads}</svg></figure>'
    )


def _label(row: MaskRow) -> str:
    return f"{row.token} {row.position}"


def _cut(text: str) -> str:
    return html.escape(text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + " …")
