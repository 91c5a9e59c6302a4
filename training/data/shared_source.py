"""Documents that the processes of a run encode together: each encodes its part and sends it to the others."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from training.data.documents import Document, DocumentSource
from training.errors import DataError

_TEXT, _REFUSED = -1, -2  # instead of the number of turns: plain text, and a document that cannot be encoded


class SharedSource:
    """The documents of a source. Document i is encoded by process i mod P of P, which keeps it for later epochs.

    `read` reads documents together; `[]` encodes a document in this process alone, as the source does.
    """

    def __init__(self, source: DocumentSource, group: dist.ProcessGroup) -> None:
        """group: of all processes, for tensors on the CPU, and used by nothing else at the same time."""
        self.name = source.name
        self.source = source
        self.process, self.processes = dist.get_rank(group), dist.get_world_size(group)
        self._group = group

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Document:
        return self.source[index]

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Records of the documents, for `document_of`. Every process must call this with the same indices."""
        owners = [index % self.processes for index in indices]
        own = [_record(self.source, index) for index, owner in zip(indices, owners) if owner == self.process]
        parts = [iter(_split(each)) for each in self._gathered(np.concatenate([*own, np.zeros(0, np.int32)]))]
        return [next(parts[owner]) for owner in owners]

    def _gathered(self, values: np.ndarray) -> list[np.ndarray]:
        """The values of every process, int32 of different lengths."""
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.processes)]
        dist.all_gather(sizes, torch.tensor([len(values)]), self._group)
        lengths = [int(each) for each in sizes]
        padded = torch.zeros(max(lengths), dtype=torch.int32)
        padded[: len(values)] = torch.from_numpy(values)
        found = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(found, padded, self._group)
        return [each[:length].numpy() for each, length in zip(found, lengths)]


def document_of(record: np.ndarray) -> Document:
    """The document of a record. Raises the DataError with which its process could not encode it."""
    kind, turns, values = int(record[1]), None, record[2:].tolist()
    if kind == _REFUSED:
        raise DataError("".join(map(chr, values)))
    if kind != _TEXT:
        bounds, values = values[: 2 * kind], values[2 * kind :]
        turns = tuple(zip(bounds[::2], bounds[1::2], strict=True))
    return Document(tuple(values), turns)


def _record(source: DocumentSource, index: int) -> np.ndarray:
    """A document as int32: its number of values, that of its turns, their bounds, and the token ids."""
    try:
        document = source[index]
    except DataError as error:
        kind, values = _REFUSED, [ord(each) for each in str(error)]
    else:
        kind = _TEXT if document.turns is None else len(document.turns)
        values = [*(bound for turn in document.turns or () for bound in turn), *document.ids]
    return np.array([len(values), kind, *values], dtype=np.int32)


def _split(values: np.ndarray) -> list[np.ndarray]:
    """The records in a row of values."""
    records, at = [], 0
    while at < len(values):
        end = at + 2 + int(values[at])
        records.append(values[at:end])
        at = end
    return records
