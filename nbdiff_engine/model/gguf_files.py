"""A GGUF file as a folder of safetensors: converted once by transformers, and kept in the user's cache.

The weights are dequantised. They are saved in bfloat16, or in the file's own dtype where most of its values are float32
or float16. The tokenizer and its chat template come from the file too.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbdiff_engine.cache_folder import cache_home
from nbdiff_engine.errors import CheckpointError, brief_text
from nbdiff_engine.model.transformers_calls import quiet_transformers

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the converted folder; a new number makes all files be converted again
CONVERTED_FROM = "gguf_source.json"  # in a converted folder: the file that it was made from
_SPARE = 1.05  # room for tokenizer and config, over that of the weights


def gguf_home() -> Path:
    """The folder of all conversions."""
    return cache_home() / "gguf"


def converted(file: Path, label: str) -> Path:
    """The folder that a GGUF file is converted to; converts it if that has not been done.

    The folder belongs to the file's path, size and time of change: a file that changes is converted again, and the
    folder of its older content is deleted. Two processes do not convert the same file at once.

    Raises CheckpointError with one sentence.
    """
    _require_package(label)
    facts = file.stat()
    of_file = hashlib.sha256(str(file).encode()).hexdigest()[:16]
    of_content = hashlib.sha256(f"{_FORMAT} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = gguf_home() / f"{of_file}-{of_content}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{of_file}.lock"):
            if not folder.is_dir():
                _convert(file, folder, label)
            for older in folder.parent.glob(f"{of_file}-*"):
                if older != folder:
                    shutil.rmtree(older, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"The conversion of {label} cannot be written to {folder.parent} ({brief_text(str(error), 120)}); set "
            "NBDIFF_HOME to a folder on another disk."
        ) from error
    return folder


def conversions() -> dict[Path, Path]:
    """The GGUF files that have been converted and are still there, each with the folder of its conversion."""
    found = {}
    for folder in sorted(gguf_home().glob("*-*")):
        try:
            file = Path(json.loads((folder / CONVERTED_FROM).read_text(encoding="utf-8"))["file"])
        except (OSError, ValueError, KeyError, TypeError):  # of an older version, or damaged
            continue
        if file.is_file():
            found[file] = folder
    return found


def converted_bytes(file: Path, label: str) -> int:
    """Bytes of the weights that a GGUF file is converted to. Raises CheckpointError for a file that is none."""
    _require_package(label)
    dtype, count = _contents(file, label)
    return count * dtype.itemsize


def _require_package(label: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(f"{label} is a GGUF file, which needs the package gguf: pip install gguf.")


def _contents(file: Path, label: str) -> tuple[torch.dtype, int]:
    """The dtype to save in, and the number of values. Reads the file's header only."""
    from gguf import GGMLQuantizationType, GGUFReader

    try:
        tensors = GGUFReader(file).tensors
    except Exception as error:  # the package raises ValueErrors, IndexErrors and others for a damaged file
        raise CheckpointError(
            f"{label} cannot be read as a GGUF file ({brief_text(str(error) or type(error).__name__, 120)}); it is "
            "damaged, or its download was cut off."
        ) from error
    values: Counter[Any] = Counter()
    for tensor in tensors:
        values[tensor.tensor_type] += int(tensor.n_elements)
    kind = values.most_common(1)[0][0] if values else None
    kept = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
    return kept.get(kind, torch.bfloat16), sum(values.values())


def _convert(file: Path, folder: Path, label: str) -> None:
    """Write the folder: first under another name, then renamed, so that it is whole or not there."""
    dtype, count = _contents(file, label)
    needed = int(count * dtype.itemsize * _SPARE)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise CheckpointError(
            f"{label} needs {needed / 1e9:.1f} GB of disk for its conversion to safetensors, and {folder.parent} has "
            f"{free / 1e9:.1f} GB left; set NBDIFF_HOME to a folder on another disk."
        )
    logger.warning("%s is converted to safetensors once; %.1f GB are kept in %s", label, needed / 1e9, folder)
    begun = folder.with_name(f"{folder.name}.part")  # under the file's lock, so what is there was cut off
    shutil.rmtree(begun, ignore_errors=True)
    try:
        _write(file, begun, dtype, label)
        os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _write(file: Path, begun: Path, dtype: torch.dtype, label: str) -> None:
    from transformers import GgufConfig

    try:
        with quiet_transformers():
            # Without `dequantize` the weights would stay packed, and could be neither saved nor trained.
            network, loaded = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except OSError:
        raise
    except Exception as error:  # transformers and gguf may raise any exception here
        raise CheckpointError(
            f"The GGUF file {label} cannot be converted: "
            f"{brief_text(str(error).strip() or type(error).__name__, 200)}; give the model's safetensors instead."
        ) from error
    if loaded["missing_keys"]:
        first = min(loaded["missing_keys"])
        raise CheckpointError(
            f"The GGUF file {label} lacks {len(loaded['missing_keys'])} tensors of a {type(network).__name__}; the "
            f"first is {first}. A model in several GGUF files must be merged into one first."
        )
    with quiet_transformers():
        network.save_pretrained(begun)
        tokenizer.save_pretrained(begun)
    (begun / CONVERTED_FROM).write_text(json.dumps({"file": str(file)}) + "\n", encoding="utf-8")
