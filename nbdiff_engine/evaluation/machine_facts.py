"""What machine and which versions a figure of seconds was measured with."""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
import transformers


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """gpu: the name of the first one, or None. date: the day of the measurement, as in 2026-01-31."""

    cpu: str
    cores: int | None
    gpu: str | None
    torch: str
    transformers: str
    python: str
    date: str

    def to_json(self) -> dict[str, Any]:
        """As what `json.dumps` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises KeyError for a fact that is missing."""
        return cls(**{each.name: data[each.name] for each in fields(cls)})


def machine_facts() -> MachineFacts:
    """What the speeds depend on, beside the threads and the dtype that each model has."""
    cpu = platform.processor() or platform.machine()
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    except OSError:
        pass  # not Linux
    return MachineFacts(
        cpu=cpu,
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
        date=datetime.date.today().isoformat(),
    )
