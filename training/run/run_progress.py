"""The progress of a run: the part of a checkpoint that is not tensors, from which a run resumes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.data.packing import Cursor


@dataclass(frozen=True, slots=True)
class Progress:
    """The content of a checkpoint's state.json."""

    step: int = 0  # steps done
    cursor: Cursor = field(default_factory=Cursor)
    tokens_seen: int = 0  # clean tokens, without padding
    seconds: float = 0.0  # of training, over all starts of the run, without evaluation and saving
    rows_per_step: int = 0  # over all processes; must be the same when the run resumes

    @classmethod
    def read(cls, path: Path) -> "Progress":
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "cursor": Cursor(**fields["cursor"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
