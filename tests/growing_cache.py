"""The reference KV cache: transformers' own DynamicCache, concatenated and cropped.

Slow, and simple enough to check `nbdiff_engine.model.kv_cache.SlotCache` against.
"""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig


class GrowingCache:
    """transformers' DynamicCache and the token position of each of its columns, per row (-1: unused)."""

    aligned = False  # always use the full mask
    divisible = False

    def __init__(self, config: PreTrainedConfig, rows: int, max_length: int, device: torch.device):
        """max_length: unused, because the cache grows."""
        self.device = device
        self.lengths = [0] * rows
        self.columns = torch.empty(rows, 0, dtype=torch.long, device=device)
        self.network_cache = DynamicCache(config=config)

    def prepare(self, starts: list[int], width: int, rows: range) -> tuple[Tensor, Tensor]:
        self.lengths = [min(length, start) for length, start in zip(self.lengths, starts)]
        first = torch.tensor(starts, device=self.device)[:, None]
        self.columns = self.columns.masked_fill(self.columns >= first, -1)
        self.columns = torch.cat([self.columns, first + torch.arange(width, device=self.device)], dim=1)
        return self.columns.clamp(min=0), self.columns >= 0

    def keep(self, kept: list[int], rows: range) -> None:
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
    """Number of columns up to the last one that any row uses."""
    used = (columns >= 0).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
