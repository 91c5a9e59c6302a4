"""The journal of an evaluation: each finished answer is written to it, so that a killed run can be resumed.

A file of JSON lines. The first line describes the evaluation. Each other line has the answers of one batch under one
setting, or the thread count of a model, and is on the disk before the next batch begins. An incomplete line, left by a
crash, counts as not written.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch

from nbdiff_engine.errors import NBDiffError, brief
from nbdiff_engine.evaluation.machine_facts import MachineFacts
from nbdiff_engine.generate import Output
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.trace.events import FinishReason
from nbdiff_engine.trace.metrics import Metrics

logger = logging.getLogger(__name__)

FORMAT = "nbdiff-answers"
VERSION = 1

_SAMPLED = 1024  # weights of each tensor that the fingerprint uses


class Journal:
    """The answers of a run, on the disk and in memory. machine: the machine on which the run began."""

    def __init__(self, path: Path, file: Any, header: Mapping[str, Any], lines: Iterable[dict[str, Any]]):
        self.path = path
        self.machine = MachineFacts.from_json(header["machine"])
        self._file = file
        self._threads: dict[str, int] = {}
        self._batches: dict[tuple[str, str, int], list[Output]] = {}
        for number, line in enumerate(lines, start=2):
            try:
                if "threads" in line:
                    self._threads[line["model"]] = int(line["threads"])
                    continue
                key = (line["model"], line["setting"], line["batch"])
                self._batches[key] = [_output(each) for each in line["answers"]]
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path, number) from error

    @classmethod
    def open(cls, path: Path, fingerprint: Mapping[str, Any], machine: MachineFacts, resume: bool) -> Self:
        """Create a journal, or with `resume` open the existing one.

        fingerprint: all facts on which the answers depend, by name. Raises NBDiffError with one sentence for a journal
        that exists although `resume` is False, belongs to another run, is being written, or is damaged.
        """
        if path.exists() and not resume:
            raise NBDiffError(
                f"{path} holds the answers of an earlier run; --resume continues it, or choose another --output."
            )
        header = {"format": FORMAT, "version": VERSION, "machine": machine.to_json(), "fingerprint": dict(fingerprint)}
        header = json.loads(json.dumps(header))
        try:
            file = path.open("r+b" if path.exists() else "x+b")
            _lock(file, path)
            lines = _whole_lines(path, file)
            if lines:
                _check(path, lines[0], header)
                return cls(path, file, lines[0], lines[1:])
            if resume:
                logger.warning("There are no answers in %s yet; the run starts from the beginning.", path)
            journal = cls(path, file, header, ())
            journal._write(header)
            _sync_folder(path.parent)
            return journal
        except OSError as error:
            raise NBDiffError(f"The answers cannot be kept in {path}: {error.strerror}.") from error

    def threads(self, model: str) -> int | None:
        """The number of threads with which a model was decoded before; None if it was not."""
        return self._threads.get(model)

    def add_threads(self, model: str, threads: int) -> None:
        """Store the number of threads with which a model is decoded: a resumed run uses the same number."""
        self._threads[model] = threads
        self._write({"model": model, "threads": threads})

    def batch(self, model: str, setting: str, number: int) -> list[Output] | None:
        """The outputs of a batch under a setting, in the order of the batch; None if it is not decoded yet."""
        return self._batches.get((model, setting, number))

    def add(
        self, model: str, setting: str, number: int, problems: Iterable[tuple[int, str]], outputs: list[Output]
    ) -> None:
        """Store the outputs of a batch. problems: the index and the id of each problem."""
        answers = [
            {"problem": index, **({"id": name} if name else {}), **_packed(output)}
            for (index, name), output in zip(problems, outputs, strict=True)
        ]
        self._write({"model": model, "setting": setting, "batch": number, "answers": answers})

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a line did not fit on a full disk: already reported
            self._file.close()

    def _write(self, fields: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(fields).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise NBDiffError(
                f"The answers cannot be kept in {self.path}: {error.strerror}; the answers written so far "
                "are kept, and --resume continues from them."
            ) from error


def _whole_lines(path: Path, file: Any) -> list[dict[str, Any]]:
    """The complete lines of a journal. Cuts off an incomplete last line, so that new lines can follow."""
    data = file.read()
    raw = data.split(b"\n")
    whole = len(data) - len(raw.pop())
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(raw, start=1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("no object")
        except ValueError as error:
            if number == len(raw) > 1:  # a crash of the machine can leave an unreadable last line
                whole -= len(line) + 1
                break
            raise _damaged(path, number) from error
        lines.append(fields)
    file.seek(whole)
    file.truncate()
    return lines


def _check(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a journal that this run cannot resume; the error names the difference."""
    if found.get("format") != FORMAT or not isinstance(found.get("fingerprint"), dict):
        raise NBDiffError(f"{path} is no journal of an evaluation; choose another --output.")
    if found.get("version") != VERSION:
        raise NBDiffError(
            f"{path} is a journal of version {brief(found.get('version'))}; this engine reads {VERSION}. "
            "Choose another --output."
        )
    try:
        MachineFacts.from_json(found["machine"])
    except (KeyError, TypeError) as error:
        raise _damaged(path, 1) from error
    for part, value in wanted["fingerprint"].items():
        before = found["fingerprint"].get(part)
        if before == value:
            continue
        values = f" ({brief(before)}, now {brief(value)})" if isinstance(value, int | str) else ""
        raise NBDiffError(
            f"{path} is the journal of a run with another {part}{values}; repeat that run's command, or choose "
            "another --output."
        )


def _damaged(path: Path, number: int) -> NBDiffError:
    return NBDiffError(f"{path} is damaged in line {number}; choose another --output.")


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock the journal until this process ends, for any reason. Raises NBDiffError if another process has the lock."""
    try:
        import fcntl  # not at the top: the rest of the package also runs where there is none
    except ModuleNotFoundError:
        raise NBDiffError("An evaluation needs the file locks of Linux or macOS; on Windows run it in WSL.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NBDiffError(f"{path} is being written by another run; wait for it to end.") from None


def _sync_folder(folder: Path) -> None:
    """Write the folder's entry of a new file to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _packed(output: Output) -> dict[str, Any]:
    return {
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "metrics": dataclasses.asdict(output.metrics),
    }


def _output(fields: Mapping[str, Any]) -> Output:
    """A stored output, without its settings: the report has them once for all answers."""
    return Output(
        text=str(fields["text"]),
        token_ids=[int(token) for token in fields["token_ids"]],
        finish_reason=FinishReason(fields["finish_reason"]),
        settings={},
        metrics=Metrics(**fields["metrics"]),
        trace=None,
    )


# -- the fingerprint --------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """A short hash of a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


def weights_digest(model: BlockModel) -> str:
    """A hash of a model's weights, from samples of every tensor: after a training they all differ."""
    found = hashlib.blake2b(digest_size=12)
    for name, weight in model.network.named_parameters():
        values = weight.detach().flatten()
        sample = values[:: max(values.numel() // _SAMPLED, 1)].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        found.update(sample.numpy().tobytes())
    return found.hexdigest()


def engine_digest() -> str:
    """A hash of this engine's source files, used as its version."""
    found = hashlib.blake2b(digest_size=12)
    folder = Path(__file__).resolve().parents[1]
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()
