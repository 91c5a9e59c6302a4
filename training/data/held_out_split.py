"""Which documents are held out: a fixed choice by a seed, in which documents with the same prompt stay together.

A document's place in the draw depends only on the seed and its prompt. So when documents are appended to the data of a
run that resumes, new ones may take the place of held-out ones, but none that was trained on is held out afterwards,
unless their number grows.
"""

import logging
from collections.abc import Sequence

import numpy as np

logger = logging.getLogger(__name__)

_LARGEST_SHARE = 10  # at most a tenth of the documents is held out, but at least one of two


def split(keys: Sequence[int], wanted: int, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The sorted indices of the documents to train on, and of the held-out ones in the drawn order.

    keys: an integer for each document; those with equal keys are in the same part. wanted: held-out documents.
    """
    count = len(keys)
    most = min(wanted, max(count // _LARGEST_SHARE, 1 if count > 1 else 0))
    # Groups are numbered by their first document, so that without equal keys the choice is one of documents.
    numbers = np.asarray(keys, dtype=np.int64)
    if most and (numbers == numbers[0]).all():
        logger.warning("%s: all documents have the same prompt, so the held-out ones share it with the others", name)
        numbers = np.arange(count)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    groups = np.argsort(np.argsort(first))[inverse]
    sizes = np.bincount(groups, minlength=1)
    order = np.argsort(_drawn(numbers[np.sort(first)], seed), kind="stable")
    chosen, held_out = [], 0
    for group in order:
        if held_out == most:
            break
        if held_out + sizes[group] <= most:
            chosen.append(group)
            held_out += sizes[group]
    if most and not chosen:  # every prompt has more documents than are wanted
        chosen = [order[np.argmin(sizes[order])]]
        held_out = sizes[chosen[0]]
    if held_out != wanted:
        logger.warning("%s has %d documents: %d are held out, not %d", name, count, held_out, wanted)
    place = np.full(len(sizes), -1)
    place[chosen] = np.arange(len(chosen))
    at = place[groups]
    kept = np.flatnonzero(at >= 0)
    return np.flatnonzero(at < 0), kept[np.argsort(at[kept], kind="stable")]


def _drawn(keys: np.ndarray, seed: int) -> np.ndarray:
    """A random number for each key (uint64), by the finaliser of splitmix64 (Steele et al., OOPSLA 2014)."""
    start = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    mixed = keys.view(np.uint64) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
