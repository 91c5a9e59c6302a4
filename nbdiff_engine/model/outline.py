"""The outline of a checkpoint, for a list of many: its size and what it can do, from its small files in milliseconds.

`describe` says more and checks more, but loads the tokenizer. Reads no weights, converts and downloads nothing.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.draft_spec import DraftSpec, is_draft_adapter
from nbdiff_engine.model.families import FAMILIES, NOT_DECODED, NOT_NATIVE
from nbdiff_engine.model.lora_folders import ADAPTER_SPEC, base_of_adapter, beside_adapter
from nbdiff_engine.model.spec import CONFIG_KEY
from nbdiff_engine.model.weight_files import ADAPTER_WEIGHTS, is_adapter, weight_files


@dataclass(frozen=True, slots=True)
class Outline:
    """What a folder or a GGUF file holds. parameters: 0 if not known; stored: bytes of its weight files.

    block_size: None for an AR checkpoint. base: of an adapter, as its files name it. drafts: whether it is a draft
    adapter. problem: why the engine does not decode it, or "".
    """

    parameters: int
    stored: int
    block_size: int | None = None
    base: str | None = None
    drafts: bool = False
    problem: str = ""

    @property
    def base_name(self) -> str:
        """The base in one word: the last part of a path, or a name as it is."""
        base = self.base or ""
        return Path(base).name if Path(base).is_absolute() else base

    def __str__(self) -> str:
        if self.problem:
            return "cannot be decoded here"
        if self.drafts:
            return f"drafts for {self.base_name}"
        blocks = "AR only" if self.block_size is None else f"blocks of {self.block_size}"
        return f"{blocks}, adapter of {self.base_name}" if self.base else blocks


def outline(place: Path) -> Outline | None:
    """The outline of a folder or a GGUF file; None if it is no checkpoint. Raises CheckpointError for a damaged one."""
    if place.is_file():
        return Outline(0, place.stat().st_size) if place.suffix.lower() == ".gguf" else None
    if is_draft_adapter(place):
        spec = DraftSpec.read(place, place.name)
        return Outline(
            *_size([place / ADAPTER_WEIGHTS]), spec.block_size, beside_adapter(place, spec.base.name), drafts=True
        )
    if is_adapter(place):
        blocks = read_json(place, ADAPTER_SPEC).get("block_size") if (place / ADAPTER_SPEC).is_file() else None
        return Outline(*_size([place / ADAPTER_WEIGHTS]), _whole(blocks), base_of_adapter(place, place.name))
    files = weight_files(place)
    if not files or not (place / "config.json").is_file():
        return None
    fields = read_json(place)
    kind = str(fields.get("model_type"))
    family = FAMILIES.get(kind)
    spec = fields.get(CONFIG_KEY) if family is None else family.diffusion_fields(fields)
    blocks = spec.get("block_size") if isinstance(spec, dict) else None
    return Outline(*_size(files), _whole(blocks), problem=(NOT_NATIVE | NOT_DECODED).get(kind, ""))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _size(files: list[Path]) -> tuple[int, int]:
    """(number of values, bytes) of safetensors files, from their headers. Raises CheckpointError."""
    count = stored = 0
    for path in files:
        try:
            stored += path.stat().st_size
            with safe_open(path, framework="pt") as weights:
                count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read; the checkpoint is damaged.") from error
    return count, stored
