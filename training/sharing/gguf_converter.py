"""A model as a GGUF file, by the converter of llama.cpp where it is installed; it is no part of this project."""

import shutil
import subprocess
import sys
from pathlib import Path

from nbdiff_engine.errors import brief_text
from training.errors import RunError

OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")  # that the converter writes; smaller ones need llama-quantize
_NAMES = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
_MAGIC = b"GGUF"


def find_converter(given: Path | None) -> Path:
    """The converter that was given, or the one on PATH. Raises RunError if there is none."""
    if given is not None:
        if not given.is_file():
            raise RunError(f"There is no converter {given}; give the path of llama.cpp's {_NAMES[0]}.")
        return given
    found = next((path for name in _NAMES if (path := shutil.which(name)) is not None), None)
    if found is None:
        raise RunError(
            f"GGUF files are written by llama.cpp's {_NAMES[0]}, which is not on PATH; get llama.cpp and give the file "
            "with --converter."
        )
    return Path(found)


def convert(model: Path, target: Path, outtype: str, converter: Path) -> None:
    """Convert the HF folder `model` to the GGUF file `target`. Raises RunError if the converter fails."""
    command = [str(converter), str(model), "--outfile", str(target), "--outtype", outtype]
    if converter.suffix == ".py":
        command.insert(0, sys.executable)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise RunError(f"The converter {converter} does not start: {error.strerror or error}.") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it printed nothing"]
        raise RunError(
            f"The converter {converter.name} ended with code {done.returncode}: {brief_text(lines[-1].strip(), 240)}"
        )
    try:
        with target.open("rb") as file:
            written = file.read(4) == _MAGIC
    except OSError:
        written = False
    if not written:
        raise RunError(f"The converter {converter.name} ended without an error, but wrote no GGUF file to {target}.")
