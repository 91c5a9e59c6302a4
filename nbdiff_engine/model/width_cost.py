"""The cost of a forward by its width: measured once per model and machine, and kept in the user's cache."""

import hashlib
import json
import logging
import os
import platform
import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from nbdiff_engine.cache_folder import cache_home
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.passes import Pass

logger = logging.getLogger(__name__)

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
_FORMAT = 1  # of the measurement; a new number makes all be measured again
_CONTEXT = 128  # committed tokens before the passes
_ROUNDS = (3, 40)  # at least, at most
_SECONDS = 1.0  # no further round begins after them


@dataclass(frozen=True, slots=True)
class WidthCost:
    """Seconds of a forward of WIDTHS[i] tokens, with the probabilities of all of them, relative to one token's."""

    relative: tuple[float, ...]

    def __call__(self, tokens: int) -> float:
        """Between the measured widths, and beyond them, the cost grows evenly."""
        at = min(max(bisect_left(WIDTHS, tokens), 1), len(WIDTHS) - 1)
        low, high = WIDTHS[at - 1], WIDTHS[at]
        share = (tokens - low) / (high - low)
        return self.relative[at - 1] + share * (self.relative[at] - self.relative[at - 1])


_known: WeakKeyDictionary[BlockModel, WidthCost] = WeakKeyDictionary()


def set_width_cost(model: BlockModel, cost: WidthCost) -> None:
    """Use this cost for a model in this process, instead of a measured one."""
    _known[model] = cost


def width_cost(model: BlockModel) -> WidthCost:
    """The cost of a model's forwards on this machine. The first call on a machine measures it: for a second or less."""
    found = _known.get(model)
    if found is None:
        file = cache_home() / "width-cost" / f"{_key(model)}.json"
        found = _read(file)
        if found is None:
            found = _measured(model)
            _write(file, found)
        _known[model] = found
    return found


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
        relative = json.loads(file.read_text(encoding="utf-8"))["relative"]
        found = WidthCost(tuple(float(each) for each in relative))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is measured again
        return None
    return found if len(found.relative) == len(WIDTHS) and min(found.relative) > 0 else None


def _write(file: Path, cost: WidthCost) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"widths": WIDTHS, "relative": cost.relative}), encoding="utf-8")
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

    def seconds(width: int) -> float:
        # One clean row and noise rows behind it; without an adapter, a causal pass costs the same.
        unknown = token if model.draft is None else model.draft.mask_token_id
        groups = [(1, [unknown] * (width - 1))] if width > 1 and model.draft is not None else []
        tokens = [token] if groups else [token] * width
        asked = time.perf_counter()
        logits = session.run([Pass.mixed(tokens, start, groups, range(width))])
        logits.softmax(dim=-1).amax(dim=-1).tolist()  # as a prediction; waits for the device
        return time.perf_counter() - asked

    best = {width: seconds(width) for width in WIDTHS}  # and a warm-up
    least, most = _ROUNDS
    begun = time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - begun > _SECONDS:
            break
        for width in WIDTHS:  # alternating, so that other load on the machine slows all
            best[width] = min(best[width], seconds(width))
    # A wider forward is never cheaper: a smaller figure is chance.
    relative: list[float] = []
    for width in WIDTHS:
        relative.append(max([best[width] / best[1], *relative]))
    return WidthCost(tuple(relative))
