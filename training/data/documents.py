"""Document: one piece of training text as token ids, with the spans a model is to answer."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, and which of them are the model's own.

    turns: spans [start, stop) of the assistant's turns, each with the token that ends it. Blocks are laid
    from each start; only these tokens are noised, and only they are scored. None: plain text, all of it
    scored, its blocks laid from an offset that is drawn anew each time it is read.
    """

    ids: tuple[int, ...]
    turns: tuple[tuple[int, int], ...] | None

    def __post_init__(self) -> None:
        end = 0
        for start, stop in self.turns or ():
            if not end <= start < stop <= len(self.ids):
                raise ValueError(f"the turns {self.turns} are no ordered spans of {len(self.ids)} tokens")
            end = stop


class DocumentSource(Protocol):
    """Documents by number: any of them can be had without those before it, so a run resumes anywhere."""

    name: str  # for the log and the model card

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Document:
        """Document `index`, always the same."""
