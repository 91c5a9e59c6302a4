"""Packing: documents one after another in rows of a fixed length, in an order that can resume at a cursor.

A batch is a pure function of (source, seed, cursor), and nothing is buffered between steps. Therefore a resumed run
continues exactly after its last document, and all processes of a distributed run pack the same rows and select theirs.
They encode the documents of a `SharedSource` together, so each of them must ask for the same batches in the same order.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from nbdiff_engine.model.attention import PADDING
from training.data.documents import Document, DocumentSource
from training.data.shared_source import SharedSource, document_of
from training.errors import DataError
from training.objective.noising import Packed

logger = logging.getLogger(__name__)

_CHECKED = 2000  # documents that are read before a run to count those that train nothing
_READ_AHEAD = 32  # documents per process that are encoded together
_MAX_SHUFFLED = 10_000_000  # larger sources are not shuffled; the corpus already has a random order


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the source. document: documents read, over all epochs. piece: used pieces of the next document."""

    document: int = 0
    piece: int = 0


@dataclass(frozen=True, slots=True)
class DocumentPiece:
    """A part of a document in one row, with the start of the block grid of each token's answer."""

    ids: Sequence[int]
    starts: Sequence[int]  # per token: position of the first token of its answer, -1 outside answers
    scored: Sequence[bool]


@dataclass
class Packer:
    """Fills rows of `length` tokens from a source."""

    source: DocumentSource
    length: int
    seed: int
    largest_block: int
    cut: int = field(default=0, init=False)  # documents longer than a row, whose end was cut
    refused: int = field(default=0, init=False)  # documents that cannot be encoded and are left out
    # Of a SharedSource: the number of the first document that was read ahead, and their records.
    _first: int = field(default=0, init=False)
    _ahead: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise DataError(f"{self.source.name} contains no document to train on.")

    def batch(self, cursor: Cursor, rows: int, end: int | None = None) -> tuple[Packed, Cursor]:
        """The next `rows` rows from `cursor`, and the cursor of the next batch. Reading stops before document `end`.

        A piece is put into the first row with enough room. The batch ends at the first piece that fits in no row.
        Raises DataError if no document of the source can be used.
        """
        filled: list[list[DocumentPiece]] = [[] for _ in range(rows)]
        room = [self.length] * rows
        unusable = 0
        while cursor.document != end:
            pieces = self._pieces(cursor.document)
            unusable = 0 if pieces else unusable + 1
            if unusable > len(self.source):
                raise DataError(
                    f"No document of {self.source.name} can be used: {self.refused} cannot be encoded, and none of the "
                    f"others leaves room for an answer in {self.length} tokens; increase the packed length."
                )
            for number in range(cursor.piece, len(pieces)):
                size = len(pieces[number].ids)
                row = next((row for row in range(rows) if room[row] >= size), None)
                if row is None:
                    return self._packed(filled), Cursor(cursor.document, number)
                filled[row].append(pieces[number])
                room[row] -= size
            cursor = Cursor(cursor.document + 1)
        return self._packed(filled), cursor

    def all_rows(self, documents: int) -> Iterator[Packed]:
        """The first `documents` documents, each once, one row at a time, for evaluation."""
        cursor, documents = Cursor(), min(documents, len(self.source))
        while cursor.document < documents:
            packed, cursor = self.batch(cursor, 1, documents)
            yield packed

    def check(self) -> None:
        """Log how many of the first documents train nothing, because no token of an answer fits in a row.

        Raises DataError if these are all documents of the source.
        """
        counted, nothing = min(_CHECKED, len(self.source)), 0
        for number in range(counted):
            try:
                nothing += not self._trains(self._document(number))
            except DataError:  # reported when it is packed
                continue
        if nothing == len(self.source):
            raise DataError(
                f"No document of {self.source.name} leaves room for an answer in {self.length} tokens, the packed "
                "length: their prompts are longer. Increase optimisation.packed_length, or shorten the prompts."
            )
        if nothing:
            logger.warning(
                "%d of %s%d documents train nothing: no token of an answer is in their first %d tokens, the packed "
                "length",
                nothing,
                "" if counted == len(self.source) else "the first ",
                counted,
                self.length,
            )

    def _trains(self, document: Document) -> bool:
        """Whether a token of the document is a target."""
        if document.turns is None:
            return len(document.ids) > 1
        return any(start < self.length for start, _ in document.turns)

    def order(self, epoch: int) -> Sequence[int]:
        """The order in which an epoch reads the documents."""
        return _order(len(self.source), self.seed, epoch)

    def _document(self, number: int) -> Document:
        """Document `number`, counted over all epochs. Raises DataError if it cannot be encoded."""
        epoch, place = divmod(number, len(self.source))
        if not isinstance(self.source, SharedSource):
            return self.source[int(self.order(epoch)[place])]
        if not 0 <= number - self._first < len(self._ahead):
            end = min(place + _READ_AHEAD * self.source.processes, len(self.source))
            self._first = number
            self._ahead = self.source.read([int(each) for each in self.order(epoch)[place:end]])
        return document_of(self._ahead[number - self._first])

    def _pieces(self, number: int) -> list[DocumentPiece]:
        """The pieces of document `number`, counted over all epochs; none if no token of an answer fits in a row."""
        try:
            document = self._document(number)
        except DataError as error:  # one bad row must not end a long run
            self.refused += 1
            if self.refused == 1:
                logger.warning("left out: %s", error)
            return []
        if document.turns is None:
            return self._pieces_of_text(document, number)
        if len(document.ids) <= self.length:
            return [_piece_of_turns(document.ids, document.turns)]
        self.cut += 1
        kept = [(start, min(stop, self.length)) for start, stop in document.turns if start < self.length]
        return [_piece_of_turns(document.ids[: self.length], kept)] if kept else []

    def _pieces_of_text(self, document: Document, number: int) -> list[DocumentPiece]:
        draw = random.Random(f"{self.seed}/offset/{number}")
        pieces = []
        for first in range(0, len(document.ids), self.length):
            ids = document.ids[first : first + self.length]
            if len(ids) < 2:  # a token without a token before it cannot be predicted
                continue
            offset = draw.randrange(min(self.largest_block, len(ids)))
            pieces.append(DocumentPiece(ids, [-1] * offset + [offset] * (len(ids) - offset), [True] * len(ids)))
        return pieces

    def _packed(self, filled: list[list[DocumentPiece]]) -> Packed:
        shape = (len(filled), self.length)
        ids, position = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        document, start = torch.full(shape, PADDING), torch.full(shape, -1)
        scored = torch.zeros(shape, dtype=torch.bool)
        for row, pieces in enumerate(filled):
            at = 0
            for number, piece in enumerate(pieces):
                span = slice(at, at + len(piece.ids))
                ids[row, span] = torch.tensor(piece.ids)
                position[row, span] = torch.arange(len(piece.ids))
                document[row, span] = number
                start[row, span] = torch.tensor(piece.starts)
                scored[row, span] = torch.tensor(piece.scored)
                at += len(piece.ids)
        return Packed(ids, position, document, start, scored)


def _piece_of_turns(ids: Sequence[int], turns: Sequence[tuple[int, int]]) -> DocumentPiece:
    """A document with turns of the assistant; only these tokens are noised and scored."""
    starts = [-1] * len(ids)
    for first, last in turns:
        starts[first:last] = [first] * (last - first)
    return DocumentPiece(ids, starts, [each >= 0 for each in starts])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Sequence[int]:  # an array of integers: a list has five times its size
    if count > _MAX_SHUFFLED:
        return range(count)
    draw = torch.Generator().manual_seed(random.Random(f"{seed}/order/{epoch}").getrandbits(60))
    return torch.randperm(count, generator=draw).numpy()
