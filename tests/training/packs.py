"""Small packed rows to try the objective on."""

from dataclasses import dataclass

from tests.tiny import prompt_ids
from training.data.documents import Document
from training.data.packing import Cursor, Packer
from training.objective.noising import Packed

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
    """A document of a prompt and an answer of so many tokens, EOS last."""
    ids = [each for each in prompt_ids(prompt + completion + 99, seed) if each != EOS][: prompt + completion - 1]
    return Document((*ids, EOS), ((prompt, prompt + completion),))


def packed(*documents: Document, length: int = 64, rows: int = 1, seed: int = 0, largest_block: int = 8) -> Packed:
    """One batch that holds each of some documents once, in their order."""
    packer = Packer(ListSource(documents), length, seed, largest_block)
    packer.order = lambda epoch: range(len(documents))
    return packer.batch(Cursor(), rows, len(documents))[0]
