"""The machine and the versions with which times were measured."""

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
    """The facts about a machine. gpu: the name of the first GPU, or None. date: the day of the measurement, as in
    2026-01-31."""

    cpu: str
    cores: int | None
    gpu: str | None
    torch: str
    transformers: str
    python: str
    date: str

    def to_json(self) -> dict[str, Any]:
        """The facts as a dict for `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises KeyError for a fact that is missing."""
        return cls(**{each.name: data[each.name] for each in fields(cls)})


def machine_facts() -> MachineFacts:
    """The facts on which the speeds depend, besides the threads and the dtype of each model."""
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
