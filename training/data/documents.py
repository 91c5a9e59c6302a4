"""Document: one training text as token ids, with the spans that are answers."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, and which of them are answers of the assistant.

    turns: spans [start, stop) of the assistant's turns, each with its end token. Blocks begin at each start, and only
    these tokens are noised and scored. None: plain text. All its tokens are scored, and its blocks begin at an offset
    that is drawn each time it is read.
    """

    ids: tuple[int, ...]
    turns: tuple[tuple[int, int], ...] | None

    def __post_init__(self) -> None:
        end = 0
        for start, stop in self.turns or ():
            if not end <= start < stop <= len(self.ids):
                raise ValueError(f"the turns {self.turns} are not ordered spans of {len(self.ids)} tokens")
            end = stop


class DocumentSource(Protocol):
    """Documents by number. Each can be read without those before it, so a run can resume at any document."""

    name: str  # for the log and the model card

    def __len__(self) -> int:
        """The number of documents."""

    def __getitem__(self, index: int) -> Document:
        """Document `index`; the same at every call."""
