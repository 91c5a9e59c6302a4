"""The cost of a forward by its width: measured once per model and machine, and kept in the user's cache.

A measurement on a busy machine can be wrong. So the forwards of later answers are timed, and if those of different
widths contradict it, the next answer measures again. So it does if drafts seem too expensive to be ever tried.
"""

import hashlib
import json
import logging
import os
import platform
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from weakref import WeakKeyDictionary

import torch

from nbdiff_engine.cache_folder import cache_home
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.passes import Pass

logger = logging.getLogger(__name__)

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_FORMAT = 4  # of the measurement; a new number makes all be measured again
_CONTEXT = 128  # committed tokens before the passes
_ROUNDS = (5, 40)  # at least, at most
_SECONDS = 1.0  # no further round begins after them
_WINDOW, _LONGEST_WINDOW = 128, 8192  # forwards that are compared with a measurement
_ENOUGH = 4  # of them, of one width
_UNTRIED = 8  # windows without noise rows: a cost that is too high keeps drafts from being tried, and from being timed
_CONTRADICTION = 1.5  # the ratio of two widths' costs, as timed and as measured


@dataclass(frozen=True, slots=True)
class WidthCost:
    """Seconds of a forward of WIDTHS[i] tokens, with the probabilities of all of them, relative to one token's.

    relative: one clean token, and noise rows after it. clean: without noise rows, which costs less with a draft adapter
    because no LoRA is computed; None: the same.
    """

    relative: tuple[float, ...]
    clean: tuple[float, ...] | None = None

    def __call__(self, tokens: int) -> float:
        """Of a forward with noise rows. Between the measured widths, and beyond them, the cost grows evenly."""
        return _between(self.relative, tokens)

    def without_noise(self, tokens: int) -> float:
        return _between(self.clean or self.relative, tokens)


def _between(costs: tuple[float, ...], tokens: int) -> float:
    at = min(max(bisect_left(WIDTHS, tokens), 1), len(WIDTHS) - 1)
    low, high = WIDTHS[at - 1], WIDTHS[at]
    share = (tokens - low) / (high - low)
    return costs[at - 1] + share * (costs[at] - costs[at - 1])


class ForwardTimes:
    """The seconds of a model's last forwards of one row each, to compare with the measured cost.

    After a measurement that they contradicted, twice as many are compared: if the forwards differ from a measurement
    for another reason, such as long contexts, it is seldom made again.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[int, float, bool]] = deque(maxlen=_WINDOW)  # tokens, seconds, noise
        self._window, self._count, self._drafted = _WINDOW, 0, False

    def observe(self, tokens: int, seconds: float, noise: bool = True) -> None:
        """Note a forward of one row, with the probabilities of all its tokens. noise: whether it has noise rows."""
        if tokens <= WIDTHS[-1]:
            self._last.append((tokens, seconds, noise))
            self._count += 1
            self._drafted |= noise

    def contradict(self, cost: WidthCost) -> bool:
        """Whether the forwards of two kinds differ from this cost by more than a half, or none of many had noise rows.
        A kind is a width, with or without noise rows."""
        if self._count < self._window:
            return False
        if not self._drafted and self._count >= _UNTRIED * self._window:
            return True
        units: dict[tuple[int, bool], list[float]] = {}  # seconds of a forward of one token
        for tokens, seconds, noise in self._last:
            expected = cost(tokens) if noise else cost.without_noise(tokens)
            units.setdefault((bisect_left(WIDTHS, tokens), noise), []).append(seconds / expected)
        typical = [median(own) for own in units.values() if len(own) >= _ENOUGH]
        return len(typical) > 1 and max(typical) > _CONTRADICTION * min(typical)

    def restart(self) -> None:
        self._last.clear()
        self._window, self._count, self._drafted = min(2 * self._window, _LONGEST_WINDOW), 0, False


_known: WeakKeyDictionary[BlockModel, WidthCost] = WeakKeyDictionary()
_times: WeakKeyDictionary[BlockModel, ForwardTimes] = WeakKeyDictionary()


def set_width_cost(model: BlockModel, cost: WidthCost) -> None:
    """Use this cost for a model in this process, instead of a measured one."""
    _known[model] = cost
    _times.pop(model, None)


def forward_times(model: BlockModel) -> ForwardTimes | None:
    """Where the times of a model's forwards are noted; None if its cost is not a measured one."""
    return _times.get(model)


def width_cost(model: BlockModel) -> WidthCost:
    """The cost of a model's forwards on this machine. The first call on a machine measures it, in a second or two; so
    does a call after forwards that contradict the measurement."""
    found, times = _known.get(model), _times.get(model)
    if found is not None and (times is None or not times.contradict(found)):
        return found
    file = cache_home() / "width-cost" / f"{_key(model)}.json"
    known = _read(file) if found is None else None
    if times is None:
        times = _times[model] = ForwardTimes()
    else:
        times.restart()
    if known is None:
        known = _measured(model)
        _write(file, known)
    _known[model] = known
    return known


def _key(model: BlockModel) -> str:
    """What the cost depends on: the machine and its software, the network's shape and the format of its weights."""
    draft = model.draft
    changed = [] if draft is None else sorted(list(each.a_RD.shape) for each in draft.changes.values())
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else platform.processor()
    config = model.network.config.to_diff_dict()
    facts = [
        _FORMAT, torch.__version__, platform.machine(), device, os.cpu_count(), torch.get_num_threads(),
        str(model.device), str(model.dtype), model.is_fused, model.parameters, changed, config,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _read(file: Path) -> WidthCost | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        relative, clean = kept["relative"], kept["clean"]
        found = WidthCost(tuple(map(float, relative)), None if clean is None else tuple(map(float, clean)))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is measured again
        return None
    complete = all(
        len(each) == len(WIDTHS) and min(each) > 0 for each in (found.relative, found.clean or found.relative)
    )
    return found if complete else None


def _write(file: Path, cost: WidthCost) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(
            json.dumps({"widths": WIDTHS, "relative": cost.relative, "clean": cost.clean}), encoding="utf-8"
        )
        os.replace(beside, file)
    except OSError as error:
        logger.warning("The measured cost of forwards cannot be kept in %s: %s", file.parent, error)


@torch.inference_mode()
def _measured(model: BlockModel) -> WidthCost:
    token = 2 if model.vocab_size > 2 else 0
    context = min(_CONTEXT, model.context_length - max(WIDTHS) - 1)
    session = model.open(1, max(context, 1) + max(WIDTHS) + 1)
    session.prefill([[token] * max(context, 1)])
    start = session.lengths[0]

    def seconds(width: int, noise: bool) -> float:
        groups = [(1, [model.draft.mask_token_id] * (width - 1))] if noise and width > 1 else []
        tokens = [token] if groups else [token] * width
        asked = time.perf_counter()
        logits = session.run([Pass.mixed(tokens, start, groups, range(width))])
        logits.softmax(dim=-1).amax(dim=-1).tolist()  # as a prediction; waits for the device
        return time.perf_counter() - asked

    # Without an adapter, noise rows cost as much as clean ones.
    kinds = [(width, False) for width in WIDTHS]
    if model.draft is not None:
        kinds += [(width, True) for width in WIDTHS[1:]]
    for kind in kinds:  # a warm-up
        seconds(*kind)
    least, most = _ROUNDS
    begun = time.perf_counter()
    rounds: list[list[float]] = []
    while len(rounds) < least or (len(rounds) < most and time.perf_counter() - begun < _SECONDS):
        rounds.append([seconds(*kind) for kind in kinds])
    # Ratios within a round, so that other load on the machine slows both; the median, as it may come and go.
    ratios = [median(each[number] / each[0] for each in rounds) for number in range(len(kinds))]
    clean = _rising(ratios[: len(WIDTHS)])
    return WidthCost(clean) if model.draft is None else WidthCost(_rising([1.0, *ratios[len(WIDTHS) :]]), clean)


def _rising(ratios: list[float]) -> tuple[float, ...]:
    """A wider forward is never cheaper: a smaller figure is chance."""
    return tuple(accumulate(ratios, max))
