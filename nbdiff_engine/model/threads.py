"""The number of CPU threads with which a model is fastest. It is measured: neither one nor all is always the best."""

import os
import time
from weakref import WeakKeyDictionary

import torch

from nbdiff_engine.model.block_model import BlockModel

_TOKENS = 16  # of the wider of the two trial forwards: about a block
_TRIALS = 5
_SLOW_SECONDS = 0.25  # a forward this long uses all cores well, and a trial of it would take too long


_known: WeakKeyDictionary[BlockModel, int] = WeakKeyDictionary()  # measured once per model
_chosen: int | None = None  # the count that this module set last
_own: int | None = None  # torch's count before that


def choose_threads(model: BlockModel) -> int:
    """Set torch's thread count, for the whole process, to the count with which `model` is fastest. Returns the count.

    For a small model, waking a second thread costs more time than this thread saves. Tries one thread and torch's
    own count on a few forwards: about 20 ms for a small model, once per model, so that a process can switch between
    models. Changes nothing if the user has set OMP_NUM_THREADS or the model is not on the CPU.
    """
    global _chosen, _own
    current = torch.get_num_threads()
    if current != _chosen or _own is None:
        _own = current  # torch's default, or a count that other code has set
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
        # Both forwards: every comparison also decodes AR, whose forward of one token gains least from threads.
        started = time.perf_counter()
        session.denoise([block])
        session.denoise([block[:1]])
        return time.perf_counter() - started

    if trial() > _SLOW_SECONDS:
        return own
    fastest = {own: float("inf"), 1: float("inf")}
    for _ in range(_TRIALS):  # alternating, so that other load on the machine slows both
        for count in fastest:
            torch.set_num_threads(count)
            trial()  # a warm-up of the new pool of threads
            fastest[count] = min(fastest[count], trial())
    return min(fastest, key=fastest.__getitem__)
