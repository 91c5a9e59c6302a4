"""The key/value cache of a batch of rows that each advance at their own pace.

The only file that touches a transformers cache.

Both caches here answer the same calls. A forward is announced (`prepare`), run, and settled: the tokens
that a row keeps become its committed context, the rest are as if they had never been. A denoise pass keeps
nothing, so it reads the cache and leaves no mark on it.

- `SlotCache`, the fast one: a static buffer in which the slot of a token is its position. A denoise pass
  overwrites the slots of the pass before it, a rollback is an assignment, nothing is ever concatenated.
- `GrowingCache`, the reference: transformers' own DynamicCache, concatenated and cropped, with a ledger of
  which column belongs to which position. Slow, and simple enough to check the other one against.
"""

import weakref
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import Cache, StaticLayer


class KVCache(Protocol):
    """Committed keys and values of B rows."""

    network_cache: Cache  # what the network is given
    lengths: list[int]  # committed tokens per row
    aligned: bool  # in the forward being prepared, key k stands at position k in every row

    def prepare(self, starts: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Announce a forward of `width` tokens per row, row r at positions starts[r]...

        Positions at or after starts[r] are forgotten first (a rollback). Returns, for the K keys the
        forward will see in the order it will see them, their positions [B, K] and whether a token stands
        there, committed or in this forward, as bool [B, K].
        """

    def settle(self, kept: list[int]) -> None:
        """After the forward: row r keeps the first kept[r] of its tokens."""

    def select(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""


class _SlotLayer(StaticLayer):
    """One layer of a SlotCache: writes where `cache` says, and shows only the slots in use."""

    def __init__(self, cache: "SlotCache"):
        super().__init__(max_cache_len=cache.max_length)
        # Weak: the cache holds its layers, and a circle would keep gigabytes until the garbage collector came by.
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
    """Static buffer [B, heads, max_length, head_dim] a layer; the slot of a token is its position."""

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

    def settle(self, kept: list[int]) -> None:
        self.lengths = [length + count for length, count in zip(self.lengths, kept)]

    def select(self, rows: list[int]) -> None:
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.device)
        for layer in self.network_cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys.index_select(0, index)
                layer.values = layer.values.index_select(0, index)


class GrowingCache:
    """transformers' DynamicCache and, per row, the position that each of its columns holds (-1: none)."""

    aligned = False  # a reference takes no short cut

    def __init__(self, config: PreTrainedConfig, rows: int, device: torch.device):
        self.device = device
        self.lengths = [0] * rows
        self.columns = torch.empty(rows, 0, dtype=torch.long, device=device)
        self.network_cache = DynamicCache(config=config)

    def prepare(self, starts: list[int], width: int) -> tuple[Tensor, Tensor]:
        self.lengths = [min(length, start) for length, start in zip(self.lengths, starts)]
        first = torch.tensor(starts, device=self.device)[:, None]
        self.columns = self.columns.masked_fill(self.columns >= first, -1)
        self.columns = torch.cat([self.columns, first + torch.arange(width, device=self.device)], dim=1)
        return self.columns.clamp(min=0), self.columns >= 0

    def settle(self, kept: list[int]) -> None:
        self.lengths = [length + count for length, count in zip(self.lengths, kept)]
        limit = torch.tensor(self.lengths, device=self.device)[:, None]
        self.columns = self.columns.masked_fill(self.columns >= limit, -1)
        used = _used(self.columns)
        if used < self.columns.shape[1]:
            self.network_cache.crop(used - self.columns.shape[1])  # negative: how many columns to drop
            self.columns = self.columns[:, :used]

    def select(self, rows: list[int]) -> None:
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(rows, device=self.device)
        self.columns = self.columns[index]
        self.network_cache.batch_select_indices(index)


def _used(columns: Tensor) -> int:
    """How many leading columns are needed to keep every column that some row uses."""
    used = (columns >= 0).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
