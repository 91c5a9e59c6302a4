"""Show the training data of a recipe before a run: documents, noised copies, the attention mask, and block growth.

It calls the same functions as the trainer, with the base's tokenizer and config. Only `write_first_documents` reads
weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.model.attention import PADDING, dense_mask
from training.data.documents import DocumentSource
from training.data.packing import Cursor, Packer
from training.model.base import TrainedModel
from training.objective.draft_noising import DraftBatch, draft_noise
from training.objective.noising import IGNORED, Batch, Noising, Packed
from training.planning import draft_preview
from training.planning.without_weights import open_without_weights
from training.recipe.recipe import Recipe
from training.run.launch import load_network, write_documents
from training.run.run_length import with_steps
from training.run.step_reader import draft_noising_of, noised, noising_of, packer_of, seed_of

MASK, BORDER, FILL, END = "▒", "|", "·", "⟩"
LEGEND = (
    f"{MASK} masked   {BORDER} block border   {END} end of the answer   {FILL} fill: copies of its last token up to "
    "the full block, only in the noised half"
)
_COUNTED = 500  # documents that are counted
_FEWEST_WRITTEN = 4  # documents that the base writes for a preview
_ROWS = 64  # packed rows that are counted
_CONTEXT, _ANSWER = 3, 12  # tokens in the drawn mask: before the answer, and of the answer in each half
DRAWN_BLOCK = 4  # so that the drawing contains several blocks
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Preview:
    """The data and settings of a recipe."""

    recipe: Recipe
    model: TrainedModel
    source: DocumentSource
    packer: Packer
    noising: Noising
    about_mask: str

    @classmethod
    def of(cls, recipe: Recipe, block_size: int) -> "Preview":
        model, source, _, about_mask = open_without_weights(recipe)
        recipe = with_steps(recipe, model, source, processes=1)
        packer, noising = packer_of(recipe, model, source), noising_of(recipe, model, block_size)
        return cls(recipe, model, source, packer, noising, about_mask)

    def noised(self, packed: Packed, block_size: int | None = None) -> Batch:
        """Packed rows as the input of a forward. Every call gives the same noise."""
        how = replace(self.noising, block_size=block_size or self.noising.block_size)
        return noised(packed, how, self.recipe, seed_of(self.recipe, "preview"))

    def noise_rows(self, packed: Packed) -> DraftBatch:
        """Packed rows as the input of a step of a draft adapter. Every call gives the same noise."""
        how = draft_noising_of(self.recipe, self.model, self.noising.block_size)
        return draft_noise(packed, how, torch.Generator().manual_seed(seed_of(self.recipe, "preview")))

    def text(self, ids: Sequence[int]) -> str:
        """Tokens on one line: special tokens and line ends are visible, control characters are replaced."""
        text = self.model.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        marks = {"\n": "↵", "\t": "⇥", "\r": "␍"}
        return "".join(marks.get(each, each if each.isprintable() else "�") for each in text)


def preview(recipe: Recipe, count: int = 2, block_size: int | None = None) -> str:
    """The text of a preview. count: documents to show. block_size: of the noised copies; None: the run's last.

    Raises SettingError for an argument out of range, and NBDiffError if the run could not start.
    """
    if count < 1:
        raise SettingError(f"n is {brief(count)}; it must be at least 1.")
    if block_size is not None and not 1 <= block_size <= 1024:
        raise SettingError(f"block_size is {brief(block_size)}; it must be from 1 to 1024.")
    if block_size not in (None, 1) and recipe.kind == "pretrain":
        raise SettingError("block_size is given, but pretrain trains an AR model, which has no blocks; leave it out.")
    size = block_size or (recipe.blocks.b_max if recipe.kind == "adapt" else 1)
    if recipe.drafts and size < 2:
        raise SettingError(
            "block_size is 1, but a draft block has a clean row and at least one noise row; give 2 or more."
        )
    shown = Preview.of(recipe, size)
    if recipe.drafts:
        return "\n\n".join([*_drafts(shown, count), growth(shown.recipe), figures(shown)])
    drawn = attention(shown, block_size or min(size, DRAWN_BLOCK))
    head = f"{head_of(shown, size)}\n{shown.about_mask}\n{LEGEND}"
    return "\n\n".join([head, *documents(shown, count), drawn, growth(shown.recipe), figures(shown)])


def head_of(shown: Preview, block_size: int) -> str:
    """The run in one line."""
    return (
        f"{shown.recipe.kind} {shown.model.name} on {shown.source.name}: packed length {shown.packer.length}, "
        f"block size {block_size}, {shown.recipe.objective.context} context"
    )


def _drafts(shown: Preview, count: int) -> list[str]:
    """Head and documents of a draft adapter's preview."""
    head = (
        f"draft adapter for {shown.model.name} on {shown.source.name}: packed length {shown.packer.length}, block size "
        f"{shown.noising.block_size}, {shown.recipe.draft.noise_attention} noise attention\n{shown.about_mask}\n"
        f"{draft_preview.LEGEND}"
    )
    packed, _ = shown.packer.batch(Cursor(), min(shown.recipe.optimisation.rows, count))
    uniform = shown.recipe.draft.noise == "uniform"
    return [head, *draft_preview.draft_documents(packed, shown.noise_rows(packed), uniform, shown.text, count)]


def write_first_documents(recipe: Recipe, count: int) -> None:
    """For `--data self`: let the base write its first documents, unless it has. Raises NBDiffError."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write_documents(recipe, load_network(recipe, "preview", device), True, max(count, _FEWEST_WRITTEN))


# -- documents ------------------------------------------------------------------------------------------------


def documents(shown: Preview, count: int) -> list[str]:
    """The first `count` packed documents, each with its noised copy."""
    packed, batch, places = first_documents(shown, count)
    return [
        f"document {label}: " + _document(shown, packed, batch, row, number)
        for label, (row, number) in enumerate(places, start=1)
    ]


def first_documents(shown: Preview, count: int) -> tuple[Packed, Batch, list[tuple[int, int]]]:
    """Packed rows, their noised copy, and (row, number) of the first `count` documents in them."""
    packed, _ = shown.packer.batch(Cursor(), min(shown.recipe.optimisation.rows, count))
    places = [(row, n) for row in range(len(packed.ids)) for n in range(int(packed.document[row].max()) + 1)]
    return packed, shown.noised(packed), places[:count]


def _document(shown: Preview, packed: Packed, batch: Batch, row: int, number: int) -> str:
    runs = runs_of(packed, row, number)
    size = sum(len(each) for _, each in runs)
    answers = [each for start, each in runs if start >= 0]
    answered = sum(map(len, answers))
    lines = [f"{size} tokens, {answered} of them in answers"]
    for start, part in runs:
        lines += _wrapped("answer" if start >= 0 else "context", shown.text(part))
    here = packed.document[row] == number
    next_tokens = int((batch.ar_targets[row, here] != IGNORED).sum())
    if not batch.mdm_targets.shape[1]:
        lines.append(f"  scored   L_AR {next_tokens} next tokens; with blocks of one token nothing is masked")
        return "\n".join(lines)
    noised = noised_columns(batch, row, number)
    lines += _wrapped("noised", _noised_text(shown, noised_answers(shown, batch, row, noised, answers), answers))
    masked = int((batch.mdm_targets[row, noised] != IGNORED).sum())
    lines.append(
        f"  scored   L_AR {next_tokens} next tokens; L_MDM {masked} masked of {len(noised)} noised tokens "
        f"({len(noised) - answered} fill tokens)"
    )
    return "\n".join(lines)


def runs_of(packed: Packed, row: int, number: int) -> list[tuple[int, list[int]]]:
    """The runs of context and of answers of a packed document: (start of the answer or -1, token ids)."""
    here = (packed.document[row] == number).nonzero()[:, 0]
    ids, starts = packed.ids[row, here].tolist(), packed.start[row, here].tolist()
    runs, at = [], 0
    for start, group in groupby(starts):
        size = len(list(group))
        runs.append((start, ids[at : at + size]))
        at += size
    return runs


def noised_columns(batch: Batch, row: int, number: int) -> list[int]:
    """The places of a document in the noised half of its row."""
    noised = batch.mdm_targets.shape[1]
    return (batch.tokens.document[row, :noised] == number).nonzero()[:, 0].tolist()


def noised_answers(
    shown: Preview, batch: Batch, row: int, columns: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[list[tuple[int, str]]]:
    """The noised tokens of a document, its answers in order: (token id, MASK, FILL or "").

    columns: of `noised_columns`. answers: their clean tokens.
    """
    how, found = shown.noising, []
    for answer in answers:
        ended = answer[-1] in how.ending_ids
        width = -(-len(answer) // how.block_size) * how.block_size if ended else len(answer)
        mine, columns = columns[:width], columns[width:]
        found.append(
            [
                (token, MASK if token == how.mask_token_id else FILL if place >= len(answer) else "")
                for place, token in enumerate(batch.ids[row, mine].tolist())
            ]
        )
    return found


def _noised_text(shown: Preview, noised: Sequence[Sequence[tuple[int, str]]], answers: Sequence[Sequence[int]]) -> str:
    """The noised tokens of a document with marks, its answers in order."""
    size, lines = shown.noising.block_size, []
    for answer, tokens in zip(answers, noised, strict=True):
        text, plain = "", []
        for place, (token, mark) in enumerate(tokens):
            before = BORDER * (place % size == 0) + (END if place == len(answer) else "")
            if before or mark:
                text, plain = text + shown.text(plain) + before, []
            if mark:
                text += mark
            else:
                plain.append(token)
        lines.append(text + shown.text(plain) + (END if len(tokens) == len(answer) else "") + BORDER)
    return " ".join(lines)


def _wrapped(label: str, text: str) -> list[str]:
    pieces = [text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH)] or [""]
    return [f"  {label if number == 0 else '':8} {piece}" for number, piece in enumerate(pieces)]


# -- the attention mask -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MaskRow:
    """A row of the drawn attention mask: one token. sees: whether it attends to each of the drawn tokens.

    noised: whether it is in the noised half. target: the token that its output is trained to predict, None for none.
    """

    noised: bool
    position: int
    token: str
    sees: tuple[bool, ...]
    target: str | None


def drawn_mask(shown: Preview, block_size: int) -> list[MaskRow]:
    """The attention mask that training uses for a short document, for its first tokens."""
    packed, _ = shown.packer.batch(Cursor(), 4)
    row, number = _shortest(packed)
    packed = packed.rows(row, row + 1)
    batch = shown.noised(packed, block_size)
    noised = batch.mdm_targets.shape[1]
    document = batch.tokens.document[0]
    clean = (document[noised:] == number).nonzero()[:, 0] + noised
    first = int((packed.start[0, clean - noised] >= 0).nonzero()[0, 0])
    chosen = [
        *(document[:noised] == number).nonzero()[:_ANSWER, 0].tolist(),
        *clean[max(0, first - _CONTEXT) : first + _ANSWER].tolist(),
    ]
    mask = dense_mask(batch.tokens, batch.tokens, shown.recipe.objective.context)[0, 0]
    targets = torch.cat([batch.mdm_targets[0], batch.ar_targets[0]])
    return [
        MaskRow(
            noised=query < noised,
            position=int(batch.tokens.position[0, query]),
            token=_token(shown, int(batch.ids[0, query])),
            sees=tuple(bool(mask[query, key]) for key in chosen),
            target=None if (scored := int(targets[query])) == IGNORED else _token(shown, scored),
        )
        for query in chosen
    ]


def attention(shown: Preview, block_size: int) -> str:
    """`drawn_mask` as text."""
    lines = [
        f"who attends to whom, blocks of {block_size} (a row's token attends to #; x_t noised, x clean; right: the",
        "target of its output, of L_MDM in the noised half and of L_AR in the clean half)",
    ]
    for each in drawn_mask(shown, block_size):
        cells = "".join("#" if sees else "." for sees in each.sees)
        target = "" if each.target is None else f"{'L_MDM' if each.noised else 'L_AR':5} {each.target}"
        half = "x_t" if each.noised else "x"
        lines.append(f"  {half:3} {each.position:>4} {each.token:12} {cells}  {target}".rstrip())
    return "\n".join(lines)


def _shortest(packed: Packed) -> tuple[int, int]:
    """Row and number of the shortest document with enough answer tokens to draw."""
    sizes: dict[tuple[int, int], tuple[bool, int]] = {}
    for row in range(len(packed.ids)):
        for number in range(int(packed.document[row].max()) + 1):
            here = packed.document[row] == number
            few = int((here & (packed.start[row] >= 0)).sum()) < _ANSWER
            sizes[row, number] = (few, int(here.sum()))
    return min(sizes, key=sizes.__getitem__)


def _token(shown: Preview, token: int) -> str:
    if shown.model.spec is not None and token == shown.noising.mask_token_id:
        return MASK
    return repr(shown.text([token]))[:12]


# -- the run ---------------------------------------------------------------------------------------------------


def growth(recipe: Recipe) -> str:
    """The block size during the run, as a text chart."""
    total = recipe.optimisation.max_steps
    if recipe.kind == "pretrain":
        return f"block size over {total:,} steps: 1, as in every AR model"
    schedule = recipe.blocks.over(total)
    lines = [f"block size over {total:,} steps"]
    for first, end, size in schedule.phases(total):
        share = (end - first) / total
        span = f"{first + 1:,}-{end:,}"
        lines.append(f"  {size:4} steps {span:15} {100 * share:5.1f} %  {'█' * max(1, round(40 * share))}")
    lines += [f"  {size:4} from step {first + 1:,}: not reached" for first, size in schedule.stages if first >= total]
    return "\n".join(lines)


def figures(shown: Preview) -> str:
    """Counts over the first documents, in the order of the run."""
    counted = min(_COUNTED, len(shown.source))
    order = shown.packer.order(0)
    tokens = answered = longer = 0
    for index in order[:counted]:
        document = shown.source[int(index)]
        tokens += len(document.ids)
        answered += len(document.ids) if document.turns is None else sum(b - a for a, b in document.turns)
        longer += len(document.ids) > shown.packer.length
    steps = shown.recipe.optimisation
    packed, cursor = shown.packer.batch(Cursor(), min(_ROWS, steps.rows * steps.accumulation), counted)
    there = int((packed.document != PADDING).sum())
    if shown.recipe.drafts:
        noised = int((shown.noise_rows(packed).document != PADDING).sum())
    else:
        batch = shown.noised(packed)
        noised = int((batch.tokens.document[:, : batch.mdm_targets.shape[1]] != PADDING).sum())
    copies = 2 if shown.noising.complementary else 1
    total = "unlimited" if len(shown.source) >= 2**31 else f"{len(shown.source):,}"
    lines = [
        f"documents        {total}; the first {counted:,} are counted here",
        f"tokens           {tokens / counted:.1f} a document, {100 * answered / tokens:.1f} % of them in answers",
        f"packing          {100 * there / packed.ids.numel():.1f} % of {len(packed.ids)} rows filled "
        f"by {cursor.document} documents",
        f"noised share     {noised / copies / max(there, 1):.2f} noised tokens per clean token "
        "(--noised-share of estimate)",
        f"too long         {longer} of {counted:,} are longer than {shown.packer.length} tokens"
        + ("" if longer == 0 else "; conversations are cut at the end, plain text is split"),
    ]
    return "\n".join(lines)
