"""Sampling noise: Gumbel noise as a hash of (seed, row, output position, token), and the argmax under it.

argmax(log p + Gumbel noise) is a sample of p. The logarithms of the noise are the expensive part, and only a few tokens
of a vocabulary can be the argmax: the noise is at most -log u, where u in (0, 1) is the hash as a fraction. A token
whose score - log u is below a score that some token reaches with its noise cannot be the argmax. So the hashes of all
tokens are compared as integers with a limit for each position, and logarithms are computed for those that pass. The
result is the argmax over the whole vocabulary, bit for bit.

The logarithms are float64 and computed on the CPU; a device needs 64-bit integers and float32 only.
Shape suffixes: N positions, V vocabulary, K tokens that are left, of all positions.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_U64 = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # the odd constant of splitmix64, 2^64 / golden ratio
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_SEEN_BITS = 31  # leading bits of a hash that its last step, which the comparison leaves out, does not change

_SMALL = 1 << 16  # scores for which logarithms of all tokens cost less than the search
_NEAR = 4.0  # tokens this near to the best score, in nats, are tried first: one of them is usually the argmax
_FIRST = 1024  # at most that many of them, for each position
_CHUNK = 24_576  # hashes that fit into the cache of a CPU core, with the space for their next step
_DEVICE_CHUNK = 1 << 24  # hashes at a time on another device: 128 MiB


def noise_key(seed: int, row: int, position: int) -> int:
    """A 64-bit key, as a signed integer, for one output position of one row."""
    key = 0
    for part in (seed, row, position):
        key = (key + part + 1) * _STEP & _U64
        for shift, factor in _MIX:
            key = (key ^ key >> shift) * factor & _U64
        key ^= key >> 31
    return _signed(key)


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise for (key, token) pairs, float32, broadcast over both. A pure function (splitmix64)."""
    z = _hashed(keys + (tokens + 1) * _signed(_STEP))
    z = z ^ _shifted(z, 31)
    # A small u gives large noise. float64 has a fine resolution at small u, so the upper tail is not truncated.
    u = (_shifted(z, 12).double() + 0.5) * 2.0**-52
    return (-torch.log(-torch.log1p(-u))).float()


def argmax_with_noise(scores_NV: Tensor, keys: Sequence[int]) -> Tensor:
    """argmax over the vocabulary of score + gumbel(key, token), the first token of equal ones. Token ids [N].

    scores_NV: float32 log weights; -inf: never chosen. keys: one for each position.
    """
    count, vocabulary = scores_NV.shape
    keys_N = torch.tensor(keys)
    best_N = scores_NV.amax(dim=-1).cpu()
    small = scores_NV.numel() <= _SMALL and scores_NV.device.type == "cpu"
    if small or not bool(best_N.isfinite().all()):
        tokens = torch.arange(vocabulary)[None]
        return (scores_NV.cpu() + gumbel(keys_N[:, None], tokens)).argmax(dim=-1).to(scores_NV.device)

    # 1. Tokens with good scores: what they reach is a lower bound for each position's best.
    on_cpu = scores_NV.device.type == "cpu"
    rows, tokens, values, unseen_N = (_near if on_cpu else _best)(scores_NV, best_N.numpy())
    reached = _with_noise(values, keys_N, rows, tokens)
    most_N = np.maximum.reduceat(reached, np.searchsorted(rows, np.arange(count)))
    bound_N = most_N.astype(np.float64)
    bound_N -= 1e-6 * (np.abs(bound_N) + np.abs(best_N.numpy()) + 64)  # float32 rounds the scores with noise

    # 2. Tokens whose hash is small enough to pass the bound with the best score that step 1 has not seen.
    parts = np.ceil(np.exp(np.minimum(unseen_N - bound_N, 0.0)) * 2.0**_SEEN_BITS).tolist()
    limits = [min((int(part) + 1 << 64 - _SEEN_BITS) - 1, _U64) for part in parts]
    search = small_hashes if on_cpu else small_hashes_on_device
    more_rows, more_tokens, more_hashes = search(keys, vocabulary, limits, scores_NV.device)
    more_values = _gathered(scores_NV, more_rows, more_tokens)
    # The same test with each token's own score leaves few of them.
    u = (more_hashes >> np.uint64(64 - _SEEN_BITS)) * 2.0**-_SEEN_BITS
    passes = u <= np.exp(np.minimum(more_values - bound_N[more_rows], 0.0))
    more_rows, more_tokens, more_values = more_rows[passes], more_tokens[passes], more_values[passes]

    # 3. The best of both.
    leads = reached == most_N[rows]
    rows, tokens = np.concatenate([rows[leads], more_rows]), np.concatenate([tokens[leads], more_tokens])
    reached = np.concatenate([reached[leads], _with_noise(more_values, keys_N, more_rows, more_tokens)])
    order = np.lexsort((tokens, -reached, rows))
    winners = tokens[order[np.searchsorted(rows[order], np.arange(count))]]
    return torch.from_numpy(winners).to(scores_NV.device)


# -- the tokens that are tried first ---------------------------------------------------------------------

Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # rows, tokens and scores [K]; best score left out [N]


def _near(scores_NV: Tensor, best_N: np.ndarray) -> Found:
    """Per position, tokens within _NEAR of the best score; some of them if there are too many."""
    found, unseen = [], []
    for scores_V, best in zip(scores_NV.numpy(), best_N):
        near = np.flatnonzero(scores_V >= best - np.float32(_NEAR))
        unseen.append(best if len(near) > _FIRST else best - _NEAR)
        found.append(near[:: -(-len(near) // _FIRST)])
    tokens = np.concatenate(found)
    rows = np.repeat(np.arange(len(found)), [len(each) for each in found])
    return rows, tokens, scores_NV.numpy()[rows, tokens], np.array(unseen, dtype=np.float64)


def _best(scores_NV: Tensor, best_N: np.ndarray) -> Found:
    """Per position, the tokens with the best scores: fewer transfers than a search for those near the best."""
    top = scores_NV.topk(min(_FIRST // 4, scores_NV.shape[1]), dim=-1)
    values, tokens = top.values.cpu().numpy(), top.indices.cpu().numpy()
    rows = np.repeat(np.arange(len(values)), values.shape[1])
    return rows, tokens.ravel(), values.ravel(), values[:, -1].astype(np.float64)


def _with_noise(values: np.ndarray, keys_N: Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Scores with their noise [K], rounded as the sum over the whole vocabulary is."""
    return (torch.from_numpy(values) + gumbel(keys_N[torch.from_numpy(rows)], torch.from_numpy(tokens))).numpy()


def _gathered(scores_NV: Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    if scores_NV.device.type == "cpu":
        return scores_NV.numpy()[rows, tokens]
    device = scores_NV.device
    return scores_NV[torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)].cpu().numpy()


# -- the search through the hashes -----------------------------------------------------------------------


def small_hashes(
    keys: Sequence[int], vocabulary: int, limits: Sequence[int], device: torch.device | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (position, token) pairs whose hash, without its last step, is at most the position's limit: positions,
    tokens, hashes. In numpy: it has unsigned integers, and takes half of torch's time on a CPU."""
    steps = _steps(vocabulary)
    size = min(_CHUNK, vocabulary)
    hashes, shifted = np.empty(size, np.uint64), np.empty(size, np.uint64)
    rows, tokens, found = [], [], []
    for row, (key, limit) in enumerate(zip(keys, limits, strict=True)):
        for first in range(0, vocabulary, size):
            part = steps[first : first + size]
            z, s = hashes[: len(part)], shifted[: len(part)]
            np.add(part, np.uint64(key & _U64), out=z)
            for shift, factor in _MIX:
                np.right_shift(z, np.uint64(shift), out=s)
                np.bitwise_xor(z, s, out=z)
                np.multiply(z, np.uint64(factor), out=z)
            passed = np.flatnonzero(z <= np.uint64(limit))
            rows.append(np.full(len(passed), row))
            tokens.append(passed + first)
            found.append(z[passed])
    return np.concatenate(rows), np.concatenate(tokens), np.concatenate(found)


def small_hashes_on_device(
    keys: Sequence[int], vocabulary: int, limits: Sequence[int], device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`small_hashes` on another device. torch has no unsigned comparison: with the sign bit inverted, the order of
    signed integers is that of unsigned ones."""
    lowest = -(1 << 63)
    steps = (torch.arange(vocabulary, device=device) + 1) * _signed(_STEP)
    height = max(_DEVICE_CHUNK // vocabulary, 1)
    found = []
    for first in range(0, len(keys), height):
        part = torch.tensor(keys[first : first + height], device=device)
        most = torch.tensor([_signed(limit) for limit in limits[first : first + height]], device=device)
        z = _hashed(part[:, None] + steps)
        rows, tokens = ((z ^ lowest) <= (most ^ lowest)[:, None]).nonzero(as_tuple=True)
        found.append((rows + first, tokens, z[rows, tokens]))
    rows, tokens, hashes = (torch.cat(each).cpu().numpy() for each in zip(*found))
    return rows, tokens, hashes.view(np.uint64)


@lru_cache(maxsize=2)
def _steps(vocabulary: int) -> np.ndarray:
    steps = np.arange(1, vocabulary + 1, dtype=np.uint64) * np.uint64(_STEP)
    steps.setflags(write=False)
    return steps


def _hashed(z: Tensor) -> Tensor:
    """The two multiplications of splitmix64; int64 arithmetic wraps, as the hash requires."""
    for shift, factor in _MIX:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return z


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's shift copies the sign."""
    return z >> bits & (1 << 64 - bits) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
