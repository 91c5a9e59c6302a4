"""The noise rows of a draft adapter's training, shown for the first documents of a recipe."""

from collections.abc import Callable, Sequence

from training.objective.draft_noising import DraftBatch
from training.objective.noising import IGNORED, Packed

MASK, RANDOM, NOTHING = "▒", "?", "·"
LEGEND = (
    f"A group: the last token before it, then what each noise row reads and the token that it has to predict.\n"
    f"{MASK} MASK   {RANDOM} a random token   {NOTHING} no target: after the answer, or known in the group"
)
_GROUPS = 4  # shown of a document


def draft_documents(
    packed: Packed, batch: DraftBatch, uniform: bool, text: Callable[[Sequence[int]], str], count: int
) -> list[str]:
    """The first `count` documents of packed rows, each with its first groups. uniform: the noise. text: of tokens."""
    places = [(row, n) for row in range(len(packed.ids)) for n in range(int(packed.document[row].max()) + 1)]
    return [
        f"document {label}: " + _document(packed, batch, row, number, uniform, text)
        for label, (row, number) in enumerate(places[:count], start=1)
    ]


def _document(
    packed: Packed, batch: DraftBatch, row: int, number: int, uniform: bool, text: Callable[[Sequence[int]], str]
) -> str:
    ids = packed.ids[row, packed.document[row] == number]
    there = batch.document[row] == number
    size = batch.group
    read, masked, targets, positions, anchors, columns = (
        getattr(batch, name)[row, there].view(-1, size).tolist()
        for name in ("ids", "mask", "targets", "position", "anchor", "column")
    )
    scored = sum(target != IGNORED for group in targets for target in group)
    lines = [f"{len(ids)} tokens, {len(anchors)} groups of {size} noise rows, {scored} of them scored"]
    for group in range(min(_GROUPS, len(anchors))):
        cells = []
        for place, (token, target) in enumerate(zip(read[group], targets[group], strict=True)):
            known = columns[group][place] and token == int(ids[positions[group][place]])
            seen = MASK if masked[group][place] else RANDOM if uniform and not known else text([token])
            cells.append(f"{seen}→{NOTHING if target == IGNORED else text([target])}")
        anchor = anchors[group][0]
        lines.append(f"  {anchor:>5} {text([int(ids[anchor])])!r}: " + " ".join(cells))
    return "\n".join(lines)
