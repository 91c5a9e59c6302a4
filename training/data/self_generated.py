"""Documents that the base writes before the run, for self-distillation without other data.

They are sampled by AR decoding from the base's distribution (temperature 1 by default, no top-k, no top-p) and saved in
a cache, from which a killed run resumes. Document i is a function of (base, settings, i): its sampling noise is that of
row i of one large batch, so it does not depend on the batch in which it is written.

With prompts, a document is a prompt and its answer, the only turn. Without prompts, a document is plain text: with a
chat template the model writes the user's turn and then its answer; otherwise it continues a BOS, or an EOS if the
tokenizer has no BOS.
"""

import errno
import hashlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from nbdiff_engine.decoding.loop import decode
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.errors import PromptError
from nbdiff_engine.generate import prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.token_choice.sampling import Prediction, Sampler
from nbdiff_engine.trace.events import DecodeEvent, Finish
from training.data.data_settings import SELF, DataSettings
from training.data.documents import Document, DocumentSource
from training.data.given_prompts import read_prompts
from training.errors import DataError, RunError
from training.failure_kind import FailureKind

logger = logging.getLogger(__name__)

BATCH = 32  # documents in a batch; a kill loses at most one batch
DOCUMENTS_FILE = "documents.jsonl"
_FORMAT = 1  # of the cache; older caches are ignored if it changes
_POLL_SECONDS = 2.0
# The files of a checkpoint that affect its documents: weights, tokenizer, and the end of an answer.
_OF_CHECKPOINT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "*.safetensors",
)
_TWO_CONTENTS = ("Hello", "42")  # two user turns with different first and different last tokens


# -- the cache --------------------------------------------------------------------------------------------


def cache_folder(checkpoint: Path, settings: DataSettings, arithmetic: str) -> Path:
    """The folder for the documents of a checkpoint with these settings. Its name is a hash of all that affects them.

    arithmetic: dtype and quantisation, because they change the documents of the same weights.
    """
    home = os.environ.get("NBDIFF_HOME") or platformdirs.user_cache_dir("nbdiff")
    key = json.dumps(_cache_key(checkpoint, settings, arithmetic), sort_keys=True)
    return Path(home).expanduser() / "self-data" / hashlib.sha256(key.encode()).hexdigest()[:24]


def _cache_key(checkpoint: Path, settings: DataSettings, arithmetic: str) -> dict[str, Any]:
    prompts = json.dumps([prompt for _, prompt in read_prompts(settings)])
    files = sorted(path for pattern in _OF_CHECKPOINT for path in checkpoint.glob(pattern))
    return {
        "format": _FORMAT,
        "checkpoint": {path.name: _sha256(path) for path in files},
        "arithmetic": arithmetic,
        "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        "settings": settings.self_data.model_dump(exclude={"prompts"}),
        "seed": settings.seed,
        "raw": settings.raw,
        **({"control_tokens": True} if settings.control_tokens else {}),
    }


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


def _write(author: "Author", file: Path, count: int, progress: bool, batch_size: int) -> None:
    """Append the missing documents, after removing a line that a kill left incomplete."""
    offsets = _offsets(file)
    done = len(offsets) - 1
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
        for first in range(done // batch_size * batch_size, count, batch_size):
            numbers = range(first, min(first + batch_size, count))
            documents = author.documents(numbers, tick)
            new = documents[max(done - first, 0) :]
            lines.write(b"".join(_line(author.model, document) for document in new))
            lines.flush()
            os.fsync(lines.fileno())
            bar.update(len(new))


def _line(model: BlockModel, document: Document) -> bytes:
    """A document as a line of the file. The key "text" is for people and is not read back."""
    fields = {"ids": document.ids, "turns": document.turns, "text": model.tokenizer.decode(list(document.ids))}
    return json.dumps(fields).encode() + b"\n"


def _document(line: bytes) -> Document:
    """A line of the file as a document. Raises ValueError for a damaged one."""
    try:
        fields = json.loads(line)
        turns = fields["turns"]
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


def _count_written(file: Path) -> int:
    return len(_offsets(file)) - 1


# -- reading ----------------------------------------------------------------------------------------------


def open_self(settings: DataSettings, file: Path) -> tuple[DocumentSource, DocumentSource]:
    """The documents of a file that `write_self_data` wrote: those to train on, and those held out."""
    offsets, count = _offsets(file), settings.self_data.documents
    if len(offsets) <= count:
        raise DataError(f"{file} contains {len(offsets) - 1} complete documents, not {count}; remove it and run again.")
    held_out = min(settings.held_out, count // 2)
    if held_out < settings.held_out:
        logger.warning("%s has %d documents: %d are held out, not %d", SELF, count, held_out, settings.held_out)
    order = np.random.default_rng(settings.seed).permutation(count)
    kept, rest = np.sort(order[:held_out]).tolist(), np.sort(order[held_out:]).tolist()
    return SelfSource(file, [offsets[number] for number in rest], SELF), SelfSource(
        file, [offsets[number] for number in kept], f"{SELF}, held out"
    )


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


# -- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DocumentSampler(Sampler):
    """A Sampler whose noise depends on the document, not on its row in a batch. numbers: the document of each row."""

    numbers: tuple[int, ...] = ()

    def predict(
        self, logits_NV: Tensor, rows: Sequence[int], positions: Sequence[int], with_entropy: bool = False
    ) -> Prediction:
        """As in Sampler, with the number of a row's document instead of the row."""
        return Sampler.predict(self, logits_NV, [self.numbers[row] for row in rows], positions, with_entropy)


@dataclass(frozen=True, slots=True)
class Author:
    """The base, with everything it needs to write documents.

    prompts: token ids, used in turn; empty if documents begin with `opening`.
    between: the tokens between the EOS of a user's turn and the answer. None if the template has no EOS there, so the
    model writes both in one decode.
    """

    model: BlockModel
    settings: DataSettings
    prompts: Sequence[list[int]]
    opening: list[int]
    between: list[int] | None

    @classmethod
    def of(cls, model: BlockModel, settings: DataSettings) -> "Author":
        """Encode the prompts. Raises DataError, with the place of the prompt, if the model cannot read it."""
        prompts = []
        for where, prompt in read_prompts(settings):
            try:
                prompts.append(encode(model, prompt, settings.raw, control_tokens=settings.control_tokens)[1])
            except PromptError as error:
                raise DataError(f"{where} cannot be used. {error}", FailureKind.BAD_ROW) from error
        opening, between = ([], None) if prompts else _opening(model, settings.raw)
        return cls(model, settings, prompts, opening, between)

    def documents(self, numbers: Sequence[int], tick: Callable[[DecodeEvent], object]) -> list[Document]:
        """Write the documents with these numbers in one batch. tick: called with every event."""
        seed = self.settings.seed
        if self.prompts:
            prompts = [self.prompts[number % len(self.prompts)] for number in numbers]
            sequences = self._continuations(prompts, numbers, seed, tick)
            return [
                Document(tuple(sequence), ((len(prompt), len(sequence)),))
                for prompt, sequence in zip(prompts, sequences, strict=True)
            ]
        sequences = self._continuations([self.opening] * len(numbers), numbers, seed, tick)
        if self.between is not None:
            complete = [
                index
                for index, sequence in enumerate(sequences)
                if sequence[-1] in self.model.eos_token_ids and self._has_room(sequence)
            ]
            # Another seed than the question: equal noise would make the first tokens of both correlated.
            answer_seed = random.Random(f"{seed}/answer").getrandbits(62)
            prompts = [sequences[index] + self.between for index in complete]
            answered = self._continuations(prompts, [numbers[index] for index in complete], answer_seed, tick)
            for index, sequence in zip(complete, answered, strict=True):
                sequences[index] = sequence
        return [Document(tuple(sequence), None) for sequence in sequences]

    def _has_room(self, question: list[int]) -> bool:
        return len(question) + len(self.between) < self.model.context_length

    def _continuations(
        self, prompts: list[list[int]], numbers: Sequence[int], seed: int, tick: Callable[[DecodeEvent], object]
    ) -> list[list[int]]:
        """Each prompt followed by the tokens that the model writes after it, including its EOS if there is one."""
        if not prompts:
            return []
        sampling = self.settings.self_data
        job = prepare(
            self.model,
            prompts,
            strategy="ar",
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            seed=seed,
            trace=False,
        )
        sampler = DocumentSampler(
            temperature=sampling.temperature, seed=seed, forbidden=job.plan.sampler.forbidden, numbers=tuple(numbers)
        )
        sequences = [list(prompt) for prompt in job.prompts]
        for event in decode(self.model, job.prompts, replace(job.plan, sampler=sampler)):
            tick(event)
            if isinstance(event, Finish):
                sequences[event.row].extend(event.token_ids)
        return sequences


def _opening(model: BlockModel, raw: bool) -> tuple[list[int], list[int] | None]:
    """The tokens with which a document without a prompt begins, and `Author.between`.

    With a chat template: the common start of the prompts for two different user turns, and their common end.
    """
    tokenizer = model.tokenizer
    if tokenizer.chat_template and not raw:
        one, other = (encode(model, content)[1] for content in _TWO_CONTENTS)
        opening = _common_start(one, other)
        ending = _common_start(one[::-1], other[::-1])[::-1]
        place = next((place for place, token in enumerate(ending) if token in model.eos_token_ids), None)
        if opening:
            return opening, None if place is None else ending[place + 1 :]
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, *sorted(model.eos_token_ids))
    start = next((token for token in starts if token is not None), None)
    if start is None:
        raise DataError(
            f"{model.name} has neither a BOS nor an EOS that could begin a document; give self_data.prompts."
        )
    return [start], None


def _common_start(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other))]
