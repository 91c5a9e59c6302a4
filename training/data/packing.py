"""Packing: documents end to end in rows of a fixed length, in an order that a cursor can take up again.

A batch is a pure function of (source, seed, cursor): nothing is buffered between steps, so a run that resumes
reads on exactly where it stopped, and every process of a distributed run packs the same rows and takes its own.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from nbdiff_engine.model.attention import PADDING
from training.data.documents import Document, DocumentSource
from training.errors import DataError
from training.objective.noising import Packed

logger = logging.getLogger(__name__)

_SHUFFLED_UP_TO = 10_000_000  # a larger source is read in its own order, which for the corpus is a random one


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where reading goes on: documents read so far, over all epochs, and pieces of the next one already used."""

    document: int = 0
    piece: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a document goes into one row, with the start of the block grid of each of its tokens' answers."""

    ids: Sequence[int]
    starts: Sequence[int]  # per token: position of its answer's first token, -1 outside answers
    scored: Sequence[bool]


@dataclass
class Packer:
    """Fills rows of `length` tokens from a source."""

    source: DocumentSource
    length: int
    seed: int
    largest_block: int
    cut: int = field(default=0, init=False)  # documents that did not fit into a row and lost their end
    refused: int = field(default=0, init=False)  # documents that cannot be encoded, and are left out

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise DataError(f"{self.source.name} holds no document to train on.")

    def batch(self, cursor: Cursor, rows: int, end: int | None = None) -> tuple[Packed, Cursor]:
        """`rows` rows from `cursor` on, and where the next batch begins. Documents from `end` on are not read.

        A piece goes into the first row that has room; the batch is full when one finds none.
        """
        filled: list[list[Piece]] = [[] for _ in range(rows)]
        room = [self.length] * rows
        barren = 0
        while cursor.document != end:
            pieces = self._pieces(cursor.document)
            barren = 0 if pieces else barren + 1
            if barren > len(self.source):
                raise DataError(
                    f"No document of {self.source.name} can be used: {self.refused} were refused, and none of the "
                    f"others leaves room for an answer in {self.length} tokens; raise the packed length."
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
        """The first `documents` documents, one row at a time, each document once: for evaluation."""
        cursor, documents = Cursor(), min(documents, len(self.source))
        while cursor.document < documents:
            packed, cursor = self.batch(cursor, 1, documents)
            yield packed

    def order(self, epoch: int) -> Sequence[int]:
        """In which order an epoch reads the documents."""
        return _order(len(self.source), self.seed, epoch)

    def _pieces(self, number: int) -> list[Piece]:
        """The pieces of document `number` of the whole run; none where it has no answer token that can be used."""
        epoch, index = divmod(number, len(self.source))
        try:
            document = self.source[self.order(epoch)[index]]
        except DataError as error:  # one bad row among many must not end a run of days
            self.refused += 1
            if self.refused == 1:
                logger.warning("left out: %s", error)
            return []
        if document.turns is None:
            return self._pieces_of_text(document, number)
        if len(document.ids) <= self.length:
            return [_answers(document.ids, document.turns)]
        self.cut += 1
        kept = [(start, min(stop, self.length)) for start, stop in document.turns if start < self.length]
        return [_answers(document.ids[: self.length], kept)] if kept else []

    def _pieces_of_text(self, document: Document, number: int) -> list[Piece]:
        draw = random.Random(f"{self.seed}/offset/{number}")
        pieces = []
        for first in range(0, len(document.ids), self.length):
            ids = document.ids[first : first + self.length]
            if len(ids) < 2:  # a token that nothing stands before cannot be predicted
                continue
            offset = draw.randrange(min(self.largest_block, len(ids)))
            pieces.append(Piece(ids, [-1] * offset + [offset] * (len(ids) - offset), [True] * len(ids)))
        return pieces

    def _packed(self, filled: list[list[Piece]]) -> Packed:
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


def _answers(ids: Sequence[int], turns: Sequence[tuple[int, int]]) -> Piece:
    """A document with assistant turns: only these are noised and scored."""
    starts = [-1] * len(ids)
    for first, last in turns:
        starts[first:last] = [first] * (last - first)
    return Piece(ids, starts, [each >= 0 for each in starts])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Sequence[int]:
    if count > _SHUFFLED_UP_TO:
        return range(count)
    draw = torch.Generator().manual_seed(random.Random(f"{seed}/order/{epoch}").getrandbits(60))
    return torch.randperm(count, generator=draw).tolist()
