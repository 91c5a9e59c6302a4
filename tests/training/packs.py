"""Small packed rows for tests of noising and of the losses."""

import random
from dataclasses import dataclass

import torch

from tests.tiny import MASK, prompt_ids
from training.data.documents import Document
from training.data.packing import Cursor, Packer
from training.objective.noising import Batch, Noising, Packed, noise

EOS = 2


@dataclass(frozen=True, slots=True)
class ListSource:
    """Documents from a list."""

    documents: tuple[Document, ...]
    name: str = "a list"

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Document:
        return self.documents[index]


def answer(prompt: int, completion: int, seed: int = 0) -> Document:
    """A random document: `prompt` tokens, then `completion` tokens that end with EOS."""
    ids = [each for each in prompt_ids(prompt + completion + 99, seed) if each != EOS][: prompt + completion - 1]
    return Document((*ids, EOS), ((prompt, prompt + completion),))


def packed(*documents: Document, length: int = 64, rows: int = 1, seed: int = 0, largest_block: int = 8) -> Packed:
    """A batch with each document once, in the given order."""
    packer = Packer(ListSource(documents), length, seed, largest_block)
    packer.order = lambda epoch: range(len(documents))
    return packer.batch(Cursor(), rows, len(documents))[0]


def random_batch(seed: int, context: str = "token_causal", **options) -> Batch:
    """Two or three rows of random documents (plain text, one answer, several turns), noised with a random block size.

    options: more arguments of Noising.
    """
    draw = random.Random(seed)
    documents = []
    for number in range(draw.randrange(2, 9)):
        document = answer(draw.randrange(1, 12), draw.randrange(2, 30), seed=100 * seed + number)
        kind = draw.randrange(3)
        if kind == 0:
            document = Document(document.ids, None)
        elif kind == 1 and len(document.ids) > 12:
            document = Document(document.ids, ((1, 4), (6, 9), (11, len(document.ids))))
        documents.append(document)
    packer = Packer(ListSource(tuple(documents)), 64, seed, 8)
    packer.order = lambda epoch: range(len(documents))
    rows, _ = packer.batch(Cursor(), draw.randrange(2, 4), len(documents))
    settings = {"ending_ids": frozenset([EOS]), **options}
    block_size = draw.choice([1, 2, 3, 8, 16])
    return noise(rows, Noising(block_size, MASK, **settings), torch.Generator().manual_seed(seed), context)
