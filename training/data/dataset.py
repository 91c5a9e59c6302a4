"""Document sources: the corpus, and rows of files and hub data sets, split into training and held-out documents."""

import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from nbdiff_engine.errors import brief, brief_text
from training.data.bad_rows import BadRows
from training.data.conversations import Conversation
from training.data.data_settings import CORPUS, SELF, DataSettings
from training.data.documents import Document, DocumentSource
from training.data.encoder import Encoder
from training.data.formats import Format, detect_format
from training.data.held_out_split import split
from training.data.mixture import MixedSource, first_of_each, rows_of
from training.data.source_names import SourcePart, parts_of
from training.errors import DataError
from training.failure_kind import FailureKind

logger = logging.getLogger(__name__)

ENDLESS = 2**31  # documents of a source that generates them on demand
_BATCH = 1000  # rows that are checked at once
_SOON = 5.0  # seconds; checks that end before show no progress bar
_TRIED = 100  # first documents, of which one must be usable
_LISTED = 8  # names of columns in a line of the log
_CACHED_BYTES = 2**28  # of the encoded documents that a RowSource keeps: about 60 million tokens
_ENTRY_BYTES, _TURN_BYTES = 400, 130  # Python objects of one document in that cache, and of one turn


def open_source(settings: DataSettings, encoder: Encoder) -> tuple[DocumentSource, DocumentSource]:
    """The documents to train on, and the held-out documents. No row is in both.

    Checks here that every row has the text it needs; rows with blank text are left out. Mistakes that only the
    tokenizer can find, such as the MASK token in a text, are found when the row is read. Raises DataError.
    """
    if settings.raw != encoder.raw:
        raise ValueError(f"the settings say raw={settings.raw}, the encoder raw={encoder.raw}")
    if settings.source == CORPUS:
        count = settings.limit or ENDLESS
        train = CorpusSource("train", settings.seed, settings.weights, encoder, count)
        return train, CorpusSource("test", settings.seed, settings.weights, encoder, settings.held_out)
    if settings.source == SELF:
        raise DataError(f"The source {SELF!r} is written by the checkpoint before the run; it cannot be opened here.")
    parts = parts_of(settings)
    opened = [_open_rows(each, settings, encoder) for each in parts]
    name = ", ".join(each.name for each in opened)
    keys = np.concatenate([each.found.keys for each in opened])
    chosen = np.arange(len(keys))
    if settings.deduplicate:
        chosen = first_of_each(np.concatenate([each.found.contents for each in opened]))
        logger.info(
            "%s: %d of %d documents repeat an earlier one and are left out", name, len(keys) - len(chosen), len(keys)
        )
    # One split for all sources: a prompt that two of them have is trained on or held out in both.
    train, kept = (chosen[part] for part in split(keys[chosen], settings.held_out, settings.seed, name))
    weights = None if parts[0].weight is None else [each.weight for each in parts]
    trained = _documents_of(opened, train, encoder, name, weights)
    _require_one(trained)
    return trained, _documents_of(opened, kept, encoder, f"{name}, held out", None)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The rows of one source, and its documents."""

    rows: Dataset
    layout: Format
    name: str
    found: "_Found"


def _open_rows(part: SourcePart, settings: DataSettings, encoder: Encoder) -> _Opened:
    rows = rows_of(part, settings)
    layout = detect_format(rows.column_names, settings)
    if layout.kind == "messages" and not encoder.has_template:
        raise DataError(f"{part.source} contains conversations, but the tokenizer has no chat template for them.")
    name = _name(part.settings(settings))
    if unread := [column for column in rows.column_names if column not in layout.all_columns]:
        logger.info("%s: read from the columns %s, not from %s", name, *map(_listed, (layout.all_columns, unread)))
    return _Opened(rows, layout, name, _checked_rows(rows, layout, encoder, name, settings))


def _documents_of(
    opened: Sequence[_Opened], chosen: np.ndarray, encoder: Encoder, name: str, weights: Sequence[float] | None
) -> DocumentSource:
    """The chosen documents of the sources. chosen: their numbers, counted over all sources."""
    sources, first = [], 0
    for each in opened:
        count = len(each.found.keys)
        own = chosen[(chosen >= first) & (chosen < first + count)] - first
        label = name if len(opened) == 1 else each.name
        sources.append(
            RowSource(
                each.rows, each.found.rows[own], each.found.answers[own], each.layout, encoder, label, 1 / len(opened)
            )
        )
        first += count
    if len(sources) == 1:
        return sources[0]
    if weights is not None:
        empty = next((each for each in sources if not len(each)), None)
        if empty is not None:
            raise DataError(
                f"No document of {empty.name} is left to train on, so it cannot have a weight; leave it out."
            )
    return MixedSource(sources, weights, name)


def _require_one(train: DocumentSource) -> None:
    """Raise now, not during the run, if the chat template or the tokenizer refuses all of the first documents."""
    first = None
    for index in range(min(_TRIED, len(train))):
        try:
            _ = train[index]
            return
        except DataError as error:
            first = first or error
    raise first


def _name(settings: DataSettings) -> str:
    """The name of a source in the log and the model card."""
    path = Path(settings.source).expanduser()
    if path.exists():
        return path.resolve().name
    return settings.source if settings.subset is None else f"{settings.source} ({settings.subset})"


class RowSource:
    """Rows of a data set, encoded when they are read for the first time.

    The encoded rows are kept, so later epochs do not tokenize again, until they fill `_CACHED_BYTES`; rows that no
    longer fit are encoded each time they are read.

    numbers, answers: of each document its row, from 0, and its answer, see `Encoder.documents_of`; -1: the whole row.
    Errors name a row by its number in the data set, from 1.
    """

    def __init__(
        self,
        rows: Dataset,
        numbers: Sequence[int],
        answers: Sequence[int],
        layout: Format,
        encoder: Encoder,
        name: str,
        share: float = 1,
    ) -> None:
        """share: of `_CACHED_BYTES`, which the sources of a mixture divide."""
        self.name = name
        self.layout = layout
        self.encoder = encoder
        self._rows = rows.select_columns(layout.all_columns)
        self._numbers = numbers
        self._answers = answers
        # By row and answer: ids and turns.
        self._kept: dict[tuple[int, int], tuple[np.ndarray, tuple[tuple[int, int], ...] | None]] = {}
        self._room = int(_CACHED_BYTES * share)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        key = int(self._numbers[index]), int(self._answers[index])
        kept = self._kept.get(key)
        if kept is not None:
            return Document(tuple(kept[0].tolist()), kept[1])
        document = self._encode(*key)
        size = 4 * len(document.ids) + _ENTRY_BYTES + _TURN_BYTES * len(document.turns or ())
        if size <= self._room:
            self._room -= size
            self._kept[key] = np.asarray(document.ids, dtype=np.int32), document.turns
        return document

    def _encode(self, number: int, answer: int) -> Document:
        with _errors_name_row(number, self.name):
            row = self._rows[number]
            if self.layout.kind == "text":
                return self.encoder.encode_text(row[self.layout.columns[0]])
            conversation = self.layout.conversation(row)
            if conversation is not None and (self.encoder.has_template or not self.layout.is_pair(row)):
                return self.encoder.encode_conversation(conversation, None if answer < 0 else answer)
            return self.encoder.encode_pair(self.layout.prompt(row), row[self.layout.columns[1]])


@dataclass(frozen=True, slots=True)
class _Found:
    """The documents of the rows: row and answer, see `RowSource`, and a hash of the prompt of each."""

    rows: np.ndarray
    answers: np.ndarray
    keys: np.ndarray
    contents: np.ndarray  # a hash of the text of each; empty unless repeated documents are left out


def _checked_rows(rows: Dataset, layout: Format, encoder: Encoder, name: str, settings: DataSettings) -> _Found:
    """The documents of the rows with text. Raises DataError if too many rows have a value that is not text."""
    columns, bad = layout.all_columns, BadRows(name, settings.bad_rows)
    numbers, answers, keys, contents = array("q"), array("i"), array("q"), array("q")
    number = blank = 0
    unread: dict[str, list[int]] = {}
    for batch in _batches(rows.select_columns(columns), name):
        for values in zip(*(batch[column] for column in columns)):
            row = dict(zip(columns, values))
            try:
                with _errors_name_row(number, name):
                    if layout.holds_text(row):
                        conversation = layout.conversation(row)
                        for what in _unread(conversation, layout, encoder):
                            unread.setdefault(what, []).append(number + 1)
                        parts = 1 if conversation is None else encoder.documents_of(conversation)
                        numbers.extend([number] * parts)
                        answers.extend([-1] if parts == 1 else range(parts))
                        keys.extend([_hash(layout.key(row))] * parts)
                        if settings.deduplicate:
                            text = [" ".join(v.split()) if isinstance(v, str) else v for v in row.values()]
                            contents.extend(_hash(f"{part} {text}") for part in range(parts))
                    else:
                        blank += 1
            except DataError as error:
                bad.add(str(error))
            number += 1
    bad.check(number)
    if not numbers:
        raise DataError(f"{name} contains only blank text, so there is nothing to train on.")
    if blank:
        logger.warning("%s: %d of %d rows are left out, because their text is blank", name, blank, number)
    for what, at in unread.items():
        logger.warning(
            "%s: the %s of %d rows is not trained on, because the chat template does not write it (first rows: %s)",
            name,
            what,
            len(at),
            ", ".join(map(str, at[:5])),
        )
    if max(answers) >= 0:
        logger.info(
            "%s: the chat template writes the last answer of a conversation differently, so each of %d answers is a "
            "document",
            name,
            len(answers),
        )
    return _Found(np.asarray(numbers), np.asarray(answers), np.asarray(keys), np.asarray(contents))


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(brief_text, columns[:_LISTED])) + (" ..." if len(columns) > _LISTED else "")


def _hash(text: str) -> int:
    """64 bits of BLAKE2b, as a signed integer."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _unread(conversation: Conversation | None, layout: Format, encoder: Encoder) -> set[str]:
    """The parts of a row beside its text that are not encoded."""
    if conversation is None:
        return set()
    if encoder.has_template:
        return encoder.unread(conversation)
    return {what for what, _ in layout.beside}  # without a template, only the prompt and its completion are read


def _batches(rows: Dataset, name: str) -> Iterator[dict[str, list]]:
    """The rows, with a progress bar if they take long and this process logs its progress."""
    silent = not logger.isEnabledFor(logging.INFO)
    with tqdm(total=len(rows), unit="row", unit_scale=True, desc=name, delay=_SOON, disable=silent) as bar:
        try:
            for batch in rows.iter(batch_size=_BATCH):
                yield batch
                bar.update(len(next(iter(batch.values()))))
        except UnicodeDecodeError as error:  # the JSON reader stores bytes without a check
            raise DataError(f"{name} contains a row that is not UTF-8 text; save the data as UTF-8.") from error


@contextmanager
def _errors_name_row(number: int, name: str) -> Iterator[None]:
    """Add the row to a DataError that is raised inside the `with` block."""
    try:
        yield
    except DataError as error:
        raise DataError(f"Row {number + 1} of {name} cannot be used. {error}", FailureKind.BAD_ROW) from error


class CorpusSource:
    """Problems of the project's corpus. A hash of i and the weights decide the domain of document i.

    split: "train" or "test", which share no problem. weights: domain to share; None or empty: equal shares.
    """

    name = CORPUS

    def __init__(
        self, split: str, seed: int, weights: Mapping[str, float] | None, encoder: Encoder, count: int = ENDLESS
    ) -> None:
        from nbdiff_engine.tasks import DOMAINS
        from training.corpus.problems import PARTS, example

        weights = dict(weights or dict.fromkeys(DOMAINS, 1.0))
        for domain in weights:
            if domain not in PARTS:
                raise DataError(f"The corpus has no domain {brief(domain)}; it has {', '.join(PARTS)}.")
        self.split = split
        self.seed = seed
        self.encoder = encoder
        self._count = count
        self._example = example
        self._domains = [domain for domain in PARTS if weights.get(domain, 0) > 0]
        self._bounds = list(accumulate(weights[domain] for domain in self._domains))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < self._count:
            raise IndexError(f"document {index} of {self._count}")
        problem = self._example(self.domain(index), self.split, index, self.seed)
        return self.encoder.encode_pair(problem.prompt, problem.answer)

    def domain(self, index: int) -> str:
        """The domain of document `index`."""
        digest = hashlib.blake2b(f"{self.seed} {self.split} {index}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest, "big") / 2**64 * self._bounds[-1]
        return next((name for name, end in zip(self._domains, self._bounds) if point < end), self._domains[-1])
