"""The key/value cache of a batch of rows; each row has its own length.

Only this file accesses a transformers cache.

A forward is `prepare`, then the network, then `keep`. The tokens that a row keeps become its committed context; the
next forward overwrites the others. A denoise pass keeps nothing, so it reads the cache and does not change it.

`SlotCache` is a buffer in which the slot of a token is its position. A denoise pass overwrites the slots of the
previous pass, a rollback only assigns a length, and tensors are never concatenated.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, StaticLayer


class KVCache(Protocol):
    """Committed keys and values of B rows."""

    network_cache: Cache  # the cache object that the network gets
    lengths: list[int]  # committed tokens per row
    aligned: bool  # in the forward being prepared, key k is at position k in every row
    divisible: bool  # whether a forward may be of a part of the rows

    def prepare(self, starts: list[int], width: int, rows: range) -> tuple[Tensor, Tensor]:
        """Prepare for a forward of `width` tokens for each of `rows`; the first token of row rows[i] is at position
        starts[i].

        Tokens of row rows[i] at or after starts[i] are dropped first (a rollback). Returns two tensors for the K keys
        that the forward will see, in their order: the positions [B or 1, K], and as bool [B or 1, K] whether the key
        has a token, committed or of this forward.
        """

    def keep(self, kept: list[int], rows: range) -> None:
        """After the forward: row rows[i] keeps the first kept[i] of its tokens."""

    def move(self, rows: Sequence[int], sources: Sequence[int], targets: Sequence[int]) -> None:
        """After the forward and `keep`, each of `rows` keeps one more of its tokens: the one that the forward wrote at
        position sources[i], as the token at position targets[i], which is at most the row's length. What the row keeps
        ends with this token."""

    def select(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""


@dataclass(frozen=True, slots=True)
class RowContext:
    """The keys and values of a row's first tokens, apart from any cache: per layer [heads, tokens, head_dim]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        return self.keys[0].shape[1]

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in (*self.keys, *self.values))


_STEP = 256  # the buffer of a SlotCache grows by multiples of this many slots

# Makes an empty cache from (the network's config, rows, maximum positions per row, device).
CacheMaker = Callable[[PreTrainedConfig, int, int, torch.device], KVCache]


class _SlotLayer(StaticLayer):
    """One layer of a SlotCache: writes to the slots that `cache` names, and returns only the slots in use."""

    def __init__(self, cache: "SlotCache"):
        super().__init__(max_cache_len=cache.max_length)
        # Weak: the cache refers to its layers, and a reference cycle would keep gigabytes until garbage collection.
        self.cache = weakref.proxy(cache)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        cache = self.cache
        self.fit(key_states, value_states)
        keys, values = self.keys[cache.rows], self.values[cache.rows]
        if cache.slots is None:  # every row writes to the same slots
            keys[:, :, cache.first : cache.visible] = key_states
            values[:, :, cache.first : cache.visible] = value_states
        else:
            keys[cache.row_index, :, cache.slots] = key_states.transpose(1, 2)
            values[cache.row_index, :, cache.slots] = value_states.transpose(1, 2)
        return keys[:, :, : cache.visible], values[:, :, : cache.visible]

    def fit(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers as large as the cache asks for; their kind is that of these states [rows, H, tokens, E]."""
        cache = self.cache
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys, self.values = (cache.buffer_like(each) for each in (key_states, value_states))
            self.is_initialized = True
        elif self.keys.shape[0] < cache.height or self.keys.shape[2] < cache.capacity:
            self.keys, self.values = (_grown(each, cache.buffer_like(each)) for each in (self.keys, self.values))


def _grown(old: Tensor, new: Tensor) -> Tensor:
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


class SlotCache:
    """A buffer [height, heads, capacity, head_dim] per layer; the slot of a token is its position.

    The buffer grows in steps up to `max_length`, so that the memory follows the text that is there and not the text
    that may come. Growth copies the buffer, one layer at a time. Rows can be added; the rows in use are the first of
    the buffer. It shrinks when a row leaves and half of its rows, or three quarters of its slots, are not used.
    """

    divisible = True

    def __init__(self, config: PreTrainedConfig, rows: int, max_length: int, device: torch.device):
        self.max_length = max_length
        self.device = device
        self.lengths = [0] * rows
        self.written = [0] * rows  # slots that the row's last forward has filled: `move` may keep one of them later
        self.height = rows  # rows of the buffer
        self.capacity = 0  # slots of the buffer in the forward being prepared
        self.rows = slice(0, rows)
        self.first = self.visible = 0
        self.aligned = False
        self.slots: Tensor | None = None
        self.row_index: Tensor | None = None
        self.all_positions = torch.arange(0, device=device)  # grows with the buffer
        self.all_present = torch.ones(1, 0, dtype=torch.bool, device=device)
        self.network_cache = Cache(layers=[_SlotLayer(self) for _ in range(config.num_hidden_layers)])

    def buffer_like(self, states: Tensor) -> Tensor:
        """An empty buffer for keys or values [rows, heads, tokens, head_dim]. Zeros: a NaN in an unused slot would
        reach the result, although the weight of the slot is zero."""
        return states.new_zeros(self.height, states.shape[1], self.capacity, states.shape[3])

    def prepare(self, starts: list[int], width: int, rows: range) -> tuple[Tensor, Tensor]:
        for row, start in zip(rows, starts, strict=True):
            self.lengths[row] = min(self.lengths[row], start)
        self.rows = slice(rows.start, rows.stop)
        self.first, self.visible = min(starts), max(starts) + width
        self.written[self.rows] = [self.visible] * len(rows)
        self._reserve(self.visible)
        positions = self.all_positions[None, : self.visible]
        self.aligned = self.first == self.visible - width
        if self.aligned:
            self.slots = None
            return positions, self.all_present[:, : self.visible]
        first_slots = torch.tensor(starts, device=self.device)[:, None]
        self.slots = first_slots + self.all_positions[None, :width]
        self.row_index = torch.arange(len(starts), device=self.device)[:, None]
        return positions, positions < first_slots + width

    def keep(self, kept: list[int], rows: range) -> None:
        for row, count in zip(rows, kept, strict=True):
            self.lengths[row] += count

    def move(self, rows: Sequence[int], sources: Sequence[int], targets: Sequence[int]) -> None:
        row, source, target = torch.tensor([rows, sources, targets], device=self.device)
        for layer in self.network_cache.layers:
            layer.keys[row, :, target] = layer.keys[row, :, source]
            layer.values[row, :, target] = layer.values[row, :, source]
        for each, last in zip(rows, targets):
            self.lengths[each] = last + 1

    def select(self, rows: list[int]) -> None:
        self.lengths, self.written = ([each[row] for row in rows] for each in (self.lengths, self.written))
        index = torch.tensor(rows, device=self.device)
        used = max(self.written, default=0)
        capacity = self.capacity if 4 * used > self.capacity else self._stepped(used)
        in_place = capacity == self.capacity and 2 * len(rows) > self.height >= len(rows)
        self.height, self.capacity = self.height if in_place else len(rows), capacity
        # In place, only the rows after the first one that leaves move, and only as far as there are tokens.
        first = next((at for at, row in enumerate(rows) if at != row), len(rows)) if in_place else 0
        for layer in self.network_cache.layers:
            if not layer.is_initialized:
                continue
            for buffer in (layer.keys, layer.values) if in_place else ():
                buffer[first : len(rows), :, :used] = buffer[index[first:], :, :used]
            if not in_place:
                layer.keys = layer.keys[:, :, :capacity].index_select(0, index)
                layer.values = layer.values[:, :, :capacity].index_select(0, index)

    def add(self, rows: int, max_length: int) -> None:
        """Add rows without tokens after the others. max_length: of all rows, from now on."""
        self.max_length = max(self.max_length, max_length)
        self.lengths += [0] * rows
        self.written += [0] * rows
        if len(self.lengths) > self.height:
            self.height = max(len(self.lengths), self.height * 3 // 2)

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        for each in (self.lengths, self.written):
            each[one], each[other] = each[other], each[one]
        used = max(self.written[one], self.written[other])
        for layer in self.network_cache.layers:
            for buffer in (layer.keys, layer.values):
                buffer[[one, other], :, :used] = buffer[[other, one], :, :used]

    def copy(self, row: int, tokens: int) -> RowContext:
        """A copy of the row's first tokens, at least one."""
        layers = self.network_cache.layers
        return RowContext(
            tuple(each.keys[row, :, :tokens].clone() for each in layers),
            tuple(each.values[row, :, :tokens].clone() for each in layers),
        )

    def paste(self, row: int, context: RowContext, tokens: int) -> None:
        """Make the first `tokens` of a context the committed ones of a row that has none."""
        self._reserve(tokens)
        for layer, keys, values in zip(self.network_cache.layers, context.keys, context.values, strict=True):
            layer.fit(keys[None], values[None])
            layer.keys[row, :, :tokens] = keys[:, :tokens]
            layer.values[row, :, :tokens] = values[:, :tokens]
        self.lengths[row] = self.written[row] = tokens

    @property
    def held_bytes(self) -> int:
        layers = [each for each in self.network_cache.layers if each.is_initialized]
        return sum(each.keys.nbytes + each.values.nbytes for each in layers)

    @staticmethod
    def most_slots(rows: int, length: int) -> int:
        """The most slots of the buffer, in all, with that many rows of at most `length` tokens."""
        return max(rows, (rows - 1) * 3 // 2) * SlotCache._stepped(length)

    def _reserve(self, slots: int) -> None:
        if slots > self.capacity:
            self.capacity = min(self._stepped(max(slots, self.capacity * 3 // 2)), self.max_length)
        if self.capacity > len(self.all_positions):
            self.all_positions = torch.arange(self.capacity, device=self.device)
            self.all_present = torch.ones(1, self.capacity, dtype=torch.bool, device=self.device)

    @staticmethod
    def _stepped(slots: int) -> int:
        return -(-slots // _STEP) * _STEP
