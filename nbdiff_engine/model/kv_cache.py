"""The key/value cache of a batch of rows; each row has its own length.

Only this file accesses a transformers cache.

A forward is `prepare`, then the network, then `keep`. The tokens that a row keeps become its committed context; the
next forward overwrites the others. A denoise pass keeps nothing, so it reads the cache and does not change it.

`SlotCache` is a static buffer in which the slot of a token is its position. A denoise pass overwrites the slots of the
previous pass, a rollback only assigns a length, and tensors are never concatenated.
"""

import weakref
from collections.abc import Callable
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

    def prepare(self, starts: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Prepare for a forward of `width` tokens per row; the first token of row r is at position starts[r].

        Tokens at or after starts[r] are dropped first (a rollback). Returns two tensors for the K keys that the
        forward will see, in their order: the positions [B, K], and as bool [B, K] whether the key has a token,
        committed or of this forward.
        """

    def keep(self, kept: list[int]) -> None:
        """After the forward: row r keeps the first kept[r] of its tokens."""

    def select(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""


# Makes an empty cache from (the network's config, rows, maximum positions per row, device).
CacheMaker = Callable[[PreTrainedConfig, int, int, torch.device], KVCache]


class _SlotLayer(StaticLayer):
    """One layer of a SlotCache: writes to the slots that `cache` names, and returns only the slots in use."""

    def __init__(self, cache: "SlotCache"):
        super().__init__(max_cache_len=cache.max_length)
        # Weak: the cache refers to its layers, and a reference cycle would keep gigabytes until garbage collection.
        self.cache = weakref.proxy(cache)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.slots is None:  # every row writes to the same slots
            self.keys[:, :, cache.first : cache.visible] = key_states
            self.values[:, :, cache.first : cache.visible] = value_states
        else:
            self.keys[cache.row_index, :, cache.slots] = key_states.transpose(1, 2)
            self.values[cache.row_index, :, cache.slots] = value_states.transpose(1, 2)
        return self.keys[:, :, : cache.visible], self.values[:, :, : cache.visible]


class SlotCache:
    """A static buffer [B, heads, max_length, head_dim] per layer; the slot of a token is its position."""

    def __init__(self, config: PreTrainedConfig, rows: int, max_length: int, device: torch.device):
        self.max_length = max_length
        self.device = device
        self.lengths = [0] * rows
        self.first = self.visible = 0
        self.aligned = False
        self.slots: Tensor | None = None
        self.row_index: Tensor | None = None
        self.all_positions = torch.arange(max_length, device=device)
        self.all_present = torch.ones(1, max_length, dtype=torch.bool, device=device)
        self.network_cache = Cache(layers=[_SlotLayer(self) for _ in range(config.num_hidden_layers)])

    def prepare(self, starts: list[int], width: int) -> tuple[Tensor, Tensor]:
        self.lengths = [min(length, start) for length, start in zip(self.lengths, starts)]
        self.first, self.visible = min(starts), max(starts) + width
        positions = self.all_positions[None, : self.visible]
        self.aligned = self.first == self.visible - width
        if self.aligned:
            self.slots = None
            return positions, self.all_present[:, : self.visible]
        first_slots = torch.tensor(starts, device=self.device)[:, None]
        self.slots = first_slots + self.all_positions[None, :width]
        self.row_index = torch.arange(len(starts), device=self.device)[:, None]
        return positions, positions < first_slots + width

    def keep(self, kept: list[int]) -> None:
        self.lengths = [length + count for length, count in zip(self.lengths, kept)]

    def select(self, rows: list[int]) -> None:
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.device)
        for layer in self.network_cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys.index_select(0, index)
                layer.values = layer.values.index_select(0, index)
