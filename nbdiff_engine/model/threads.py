"""How many CPU threads a model is fastest with: measured, because neither one nor all of them is always right."""

import os
import time
from weakref import WeakKeyDictionary

import torch

from nbdiff_engine.model.block_model import BlockModel

_TOKENS = 16  # of the wide one of the two trial forwards: about a block
_TRIALS = 5
_SLOW_SECONDS = 0.25  # a forward this long is large enough for all cores, and too dear to try out


_known: WeakKeyDictionary[BlockModel, int] = WeakKeyDictionary()  # measured once a model
_chosen: int | None = None  # what was set here last, and what torch had before it
_own: int | None = None


def choose_threads(model: BlockModel) -> int:
    """Set torch's thread count, for the whole process, to what runs `model` fastest; the count.

    For a small model the cost of waking a second thread exceeds what it computes. Tries one thread and torch's
    own choice on a few forwards, some 20 ms for a small model and once in its life, so that models can take turns.
    Leaves alone what a user has set through OMP_NUM_THREADS, and models that are not on the CPU.
    """
    global _chosen, _own
    current = torch.get_num_threads()
    if current != _chosen or _own is None:
        _own = current  # torch's, or set by somebody else since
    if model.device.type != "cpu" or _own == 1 or "OMP_NUM_THREADS" in os.environ:
        return current
    best = _known.get(model)
    if best is None:
        best = _known[model] = _fastest(model, _own)
    _chosen = best
    torch.set_num_threads(best)
    return best


def _fastest(model: BlockModel, own: int) -> int:
    torch.set_num_threads(own)
    session = model.open(1, 2 * _TOKENS)
    block = [2] * _TOKENS
    session.prefill([block])

    def trial() -> float:
        # AR's forward of one token is as much a part of every comparison as a block's, and gains least from threads.
        started = time.perf_counter()
        session.denoise([block])
        session.denoise([block[:1]])
        return time.perf_counter() - started

    if trial() > _SLOW_SECONDS:
        return own
    fastest = {own: float("inf"), 1: float("inf")}
    for _ in range(_TRIALS):  # in turn, so that a busy moment hits both
        for count in fastest:
            torch.set_num_threads(count)
            trial()  # the pool of threads settles
            fastest[count] = min(fastest[count], trial())
    return min(fastest, key=fastest.__getitem__)
