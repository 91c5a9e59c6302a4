"""Documents that the base writes before the run, for self-distillation without other data.

They are sampled by AR decoding from the base's distribution (temperature 1 by default, no top-k, no top-p) and saved in
a cache, from which a killed run resumes. Document i is a function of (base, settings, i): its sampling noise is that of
row i of one large batch, so it does not depend on the batch in which it is written.

With prompts, a document is a prompt and its answer, the only turn. Without prompts and with a chat template, the model
writes the user's turn and then its answer, the only turn; otherwise it continues a BOS, or an EOS if the tokenizer has
no BOS. What it writes without an answer is left out, and the next number is written instead.
"""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout
from tqdm import tqdm

from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.checkpoint_folders import find_checkpoint
from nbdiff_engine.model.lora_folders import base_of_adapter
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, is_adapter
from nbdiff_engine.trace.events import DecodeEvent, Finish
from training.data.conversations import Conversation
from training.data.data_settings import SELF, DataSettings
from training.data.documents import Document, DocumentSource
from training.data.given_prompts import read_prompts
from training.data.held_out_split import split
from training.data.self_author import Author
from training.errors import DataError, RunError

logger = logging.getLogger(__name__)

BATCH = 32  # documents in a batch; a kill loses at most one batch
DOCUMENTS_FILE = "documents.jsonl"
_FORMAT = 2  # of the cache; older caches are ignored if it changes
_POLL_SECONDS = 2.0
_TRIES = 8  # numbers that are written for each document that is wanted, before the run gives up
_FEWEST = 8  # numbers in a batch once some had no answer
# The files of a checkpoint that affect its documents: weights, tokenizer, and the end of an answer.
_OF_CHECKPOINT = (
    "config.json",
    ADAPTER_CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "*.safetensors",
)


# -- the cache --------------------------------------------------------------------------------------------


def cache_folder(checkpoint: Path, settings: DataSettings, arithmetic: str) -> Path:
    """The folder for the documents of a checkpoint with these settings. Its name is a hash of all that affects them.

    arithmetic: dtype and quantisation, because they change the documents of the same weights.
    """
    home = os.environ.get("NBDIFF_HOME") or platformdirs.user_cache_dir("nbdiff")
    key = json.dumps(_cache_key(checkpoint, settings, arithmetic), sort_keys=True)
    return Path(home).expanduser() / "self-data" / hashlib.sha256(key.encode()).hexdigest()[:24]


def _cache_key(checkpoint: Path, settings: DataSettings, arithmetic: str) -> dict[str, Any]:
    given = (prompt for _, prompt in read_prompts(settings))
    prompts = json.dumps([[each.messages, each.tools] if isinstance(each, Conversation) else each for each in given])
    base = find_checkpoint(base_of_adapter(checkpoint, checkpoint.name)) if is_adapter(checkpoint) else None
    return {
        "format": _FORMAT,
        "checkpoint": _hashes(checkpoint),
        **({} if base is None else {"base_of_adapter": _hashes(base)}),
        "arithmetic": arithmetic,
        "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        "settings": settings.self_data.model_dump(
            exclude={"prompts", *(() if settings.self_data.greedy else ["greedy"])}
        ),
        "seed": settings.seed,
        "raw": settings.raw,
        **({"control_tokens": True} if settings.control_tokens else {}),
        **({"template_arguments": settings.template_arguments} if settings.template_arguments else {}),
    }


def _hashes(checkpoint: Path) -> dict[str, str]:
    """The hashes of a checkpoint's files by name."""
    files = sorted(path for pattern in _OF_CHECKPOINT for path in checkpoint.glob(pattern))
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_self_data(
    model: BlockModel, settings: DataSettings, cache_folder: Path, progress: bool = True, batch_size: int = BATCH
) -> Path:
    """Write the documents that are not in the cache yet, and return their file.

    Ctrl-C or a kill loses only the current batch. Raises DataError for prompts that cannot be used, RunError if the
    file cannot be written.
    """
    file, count = cache_folder / DOCUMENTS_FILE, settings.self_data.documents
    if _count_written(file) >= count:
        logger.info("using %d documents that %s wrote before, in %s", count, model.name, cache_folder)
        return file
    author = Author.of(model, settings)
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with _only_writer(cache_folder):
            _write(author, file, count, progress, batch_size)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise RunError(
            f"The documents cannot be written to {file}: {reason}; the first {_count_written(file)} of {count} "
            "are kept, and the next run continues after them."
        ) from error
    except KeyboardInterrupt:
        logger.warning("stopped with %d of %d documents written; the same command resumes", _count_written(file), count)
        raise
    return file


def wait_for_self_data(settings: DataSettings, cache_folder: Path) -> Path:
    """Wait until another process has written all documents, and return their file."""
    file = cache_folder / DOCUMENTS_FILE
    while _count_written(file) < settings.self_data.documents:
        time.sleep(_POLL_SECONDS)
    return file


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, because two runs with the same base would write to the same file."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process is writing the documents; waiting until it ends")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(author: Author, file: Path, count: int, progress: bool, batch_size: int) -> None:
    """Append the missing documents, after removing a line that a kill left incomplete.

    Raises DataError if the model writes too few answers.
    """
    offsets, written = _offsets(file), _numbers(file)
    done = len(written)
    bar = tqdm(
        total=count,
        initial=done,
        unit="document",
        disable=not progress,
        desc=f"{author.model.name} writes",
        mininterval=1.0,
        miniters=0,  # so that update(0) shows the tokens of an unfinished batch
    )
    with file.open("ab") as lines, bar:
        lines.truncate(offsets[-1])
        tokens = 0

        def tick(event: DecodeEvent) -> None:
            nonlocal tokens
            if not isinstance(event, Finish):
                tokens += len(event.fixed)
                bar.set_postfix_str(f"{tokens} tokens", refresh=False)
                bar.update(0)

        # A partly written batch is decoded again with all its rows: in bfloat16 rounding depends on the batch.
        first, accepted, last = 0, 0, written[-1] if written else -1
        while accepted < count:
            missing = count - accepted
            numbers = range(first, first + min(batch_size, missing if accepted == first else max(missing, _FEWEST)))
            if first >= _TRIES * count:
                raise DataError(
                    f"{author.model.name} wrote an answer for {accepted} of {first} documents, and {count} are wanted; "
                    "give self_data.prompts, or a larger self_data.max_new_tokens."
                )
            first = numbers[-1] + 1
            if numbers[-1] < last:
                accepted = sum(number < first for number in written)
                continue
            documents = zip(numbers, author.documents(numbers, tick), strict=True)
            found = [(number, document) for number, document in documents if document is not None][: count - accepted]
            new = [(number, document) for number, document in found if number > last]
            lines.write(b"".join(_line(author.model, number, document) for number, document in new))
            lines.flush()
            os.fsync(lines.fileno())
            bar.update(len(new))
            accepted += len(found)
        if first > accepted:
            logger.info("%s wrote %d documents; those without an answer are left out", author.model.name, first)


def _line(model: BlockModel, number: int, document: Document) -> bytes:
    """A document as a line of the file. The key "text" is for people and is not read back."""
    fields = {
        "number": number,
        "ids": document.ids,
        "turns": document.turns,
        "text": model.tokenizer.decode(list(document.ids)),
    }
    return json.dumps(fields).encode() + b"\n"


def _document(line: bytes) -> Document:
    """A line of the file as a document. Raises ValueError for a damaged one."""
    try:
        fields = json.loads(line)
        turns, _ = fields["turns"], int(fields["number"])
        document = Document(
            tuple(map(int, fields["ids"])), None if turns is None else tuple((int(a), int(b)) for a, b in turns)
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not a document") from error
    if not document.ids:
        raise ValueError("not a document")
    return document


def _offsets(file: Path) -> list[int]:
    """The byte offsets of the documents and of the end of the last, up to the first damaged or incomplete line."""
    offsets = [0]
    if file.exists():
        with file.open("rb") as lines:
            for line in lines:
                try:
                    _document(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                offsets.append(offsets[-1] + len(line))
    return offsets


def _numbers(file: Path) -> list[int]:
    """The numbers of the documents of a file, which increase; some are left out."""
    count = _count_written(file)
    if not count:
        return []
    with file.open("rb") as lines:
        return [int(json.loads(line)["number"]) for line in islice(lines, count)]


def _count_written(file: Path) -> int:
    return len(_offsets(file)) - 1


# -- reading ----------------------------------------------------------------------------------------------


def written_count(settings: DataSettings, file: Path) -> int:
    """The documents that a file has of those that the settings ask for; 0 without the file."""
    return min(_count_written(file), settings.self_data.documents)


def open_self(settings: DataSettings, file: Path) -> tuple[DocumentSource, DocumentSource]:
    """The documents of a file that `write_self_data` wrote: those to train on, and those held out."""
    offsets, count = _offsets(file), settings.self_data.documents
    if len(offsets) <= count:
        raise DataError(f"{file} contains {len(offsets) - 1} complete documents, not {count}; remove it and run again.")
    with file.open("rb") as lines:
        keys = [_key(_document(line)) for line in islice(lines, count)]
    train, kept = split(keys, settings.held_out, settings.seed, SELF)
    return SelfSource(file, [offsets[number] for number in train], SELF), SelfSource(
        file, [offsets[number] for number in sorted(kept)], f"{SELF}, held out"
    )


def _key(document: Document) -> int:
    """A hash of the prompt of a document, or of all its text."""
    ids = document.ids if document.turns is None else document.ids[: document.turns[0][0]]
    return int.from_bytes(hashlib.blake2b(json.dumps(ids).encode(), digest_size=8).digest(), "big", signed=True)


class SelfSource(DocumentSource):
    """Documents of a file, read on demand. offsets: the byte offset of each document in the file."""

    def __init__(self, file: Path, offsets: Sequence[int], name: str) -> None:
        self.name = name
        self._file = file
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Document:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        try:
            with self._file.open("rb") as file:
                file.seek(self._offsets[index])
                return _document(file.readline())
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file} was changed or removed while it was read; run again.") from error
