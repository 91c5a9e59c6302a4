"""What machine and which versions a figure of seconds was measured with."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers


def machine_facts() -> dict[str, Any]:
    """What the speeds depend on, beside the threads and the dtype that each model has."""
    cpu = platform.processor() or platform.machine()
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    except OSError:
        pass  # not Linux
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
