"""The prefix cache: committed keys and values by the tokens before and at them, so that no prefix is read twice.

The second turn of a conversation begins with the tokens of the first turn and its answer; only what follows them is
read. In float32 the tokens of the answer are the same: passes of other widths round differently, as everywhere in this
engine (docs/decoding.md, Exactness).
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from nbdiff_engine.model.kv_cache import RowContext

LEAST_TOKENS = 16  # reading a shorter prefix again takes less time than storing it


@dataclass(frozen=True, slots=True)
class Found:
    """A stored context whose first `tokens` are those of a prompt."""

    context: RowContext
    tokens: int


class PrefixCache:
    """Contexts of at most `budget` bytes in all; the least recently used go first. Not thread-safe."""

    def __init__(self, budget: int):
        self.budget = budget
        self.bytes = 0
        self.tokens_found = 0  # in all lookups
        self._stored: OrderedDict[tuple[Hashable, tuple[int, ...]], RowContext] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, tokens: Sequence[int], layout: Hashable) -> Found | None:
        """The stored context that shares the longest prefix with `tokens`. layout: what else its keys depend on."""
        sought = tuple(tokens)
        best, longest = None, LEAST_TOKENS - 1
        for key in self._stored:
            if key[0] == layout and (shared := _shared(key[1], sought)) > longest:
                best, longest = key, shared
        if best is None:
            return None
        self._stored.move_to_end(best)
        self.tokens_found += longest
        return Found(self._stored[best], longest)

    def store(self, tokens: Sequence[int], layout: Hashable, copy: Callable[[], RowContext]) -> None:
        """Keep the context of these tokens; copy: makes it, and is called only if it is new. Contexts of their prefixes
        are not needed any more. One that alone is over the budget is not kept."""
        key = (layout, tuple(tokens))
        if len(tokens) < LEAST_TOKENS or self.budget <= 0:
            return
        for other in list(self._stored):
            if other[0] != layout:
                continue
            shared = _shared(other[1], key[1])
            if shared == len(key[1]):  # it is there, alone or as the beginning of a longer one
                self._stored.move_to_end(other)
                return
            if shared == len(other[1]):
                self._drop(other)
        context = copy()
        if context.bytes > self.budget:
            return
        self._stored[key] = context
        self.bytes += context.bytes
        while self.bytes > self.budget:
            self._drop(next(iter(self._stored)))

    def _drop(self, key: tuple[Hashable, tuple[int, ...]]) -> None:
        self.bytes -= self._stored.pop(key).bytes


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many of their first tokens are equal: by bisection over slices, whose comparison runs in C."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
