"""Where a run is: what a checkpoint keeps beside tensors so that the run can go on from it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.data.packing import Cursor


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run must know to go on: kept in a checkpoint's state.json."""

    step: int = 0  # steps done
    cursor: Cursor = field(default_factory=Cursor)
    tokens_seen: int = 0  # clean tokens, padding left out
    seconds: float = 0.0  # of training, over all sessions, evaluation and saving left out
    rows_per_step: int = 0  # of all processes: a resumed run must read as many

    @classmethod
    def read(cls, path: Path) -> "Progress":
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "cursor": Cursor(**fields["cursor"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
