"""The time of decoding by part: the network, the preparation of its forwards, sampling, unmasking, rows and events.

`measured` replaces functions of the engine by timed ones. The timers take a little time, so the split also contains the
duration of the same work without them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nbdiff_engine as nb
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.session import Session
from nbdiff_engine.token_choice.sampling import Sampler

PARTS = ("network", "preparation", "sampling", "unmasking", "rows and events")


@dataclass(frozen=True, slots=True)
class DecodeSplit:
    """Seconds of one decode by part; their sum is `engine`.

    held: seconds that the reader waits after each event. idle: total seconds of the reader.
    """

    strategy: str
    batch: int
    held: float
    forwards: int  # of the whole batch, including the prefill
    parts: dict[str, float]
    idle: float
    untimed: float  # seconds of the engine for the same work without the timers

    @property
    def engine(self) -> float:
        return sum(self.parts.values())

    @property
    def overhead(self) -> float:
        """The share of the engine's time outside the network."""
        return 1 - self.parts["network"] / self.engine


class Stopwatch:
    """Seconds inside each watched function (with those that it calls), and the number of its calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
                self.calls[name] = self.calls.get(name, 0) + 1

        return timed


@contextmanager
def measured() -> Iterator[Stopwatch]:
    """Time the engine's functions inside the `with` block; afterwards the original functions are restored."""
    watch = Stopwatch()
    watched = [(BlockModel, "hidden", "network"), (BlockModel, "logits", "network"), (Session, "run", "run")]
    watched += [(Sampler, "predict", "sampling"), (DecodePlan, "positions_to_fix", "unmasking")]
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in watched]
    try:
        for (owner, attribute, function), (_, _, name) in zip(before, watched, strict=True):
            setattr(owner, attribute, watch.watch(name, function))
        yield watch
    finally:
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


def split(
    model: BlockModel, prompts: Sequence[Sequence[int]], rounds: int, held: float = 0.0, **settings: Any
) -> DecodeSplit:
    """The split of decoding all prompts in one batch: medians over `rounds`, each with a timed and an untimed run."""
    job = nb.prepare(model, [list(prompt) for prompt in prompts], trace=False, **settings)
    _read(job.events())  # warm-up
    timed, untimed = [], []
    for _ in range(rounds):
        with measured() as watch:
            engine, idle = _read(job.events(), held)
        timed.append((engine, idle, watch))
        untimed.append(_read(job.events())[0])
    timed.sort(key=lambda each: each[0])
    engine, idle, watch = timed[len(timed) // 2]
    seconds = {name: watch.seconds.get(name, 0.0) for name in ("network", "run", "sampling", "unmasking")}
    parts = {
        "network": seconds["network"],
        "preparation": seconds["run"] - seconds["network"],
        "sampling": seconds["sampling"],
        "unmasking": seconds["unmasking"],
    }
    parts["rows and events"] = engine - sum(parts.values())
    return DecodeSplit(
        strategy=job.plan.settings.strategy,
        batch=len(prompts),
        held=held,
        forwards=watch.calls["run"],
        parts=parts,
        idle=idle,
        untimed=statistics.median(untimed),
    )


def _read(events: Iterator[Any], held: float = 0.0) -> tuple[float, float]:
    """Seconds of the engine to produce the events, and of a reader that waits `held` seconds after each."""
    engine = 0.0
    begun = time.perf_counter()
    while True:
        started = time.perf_counter()
        event = next(events, None)
        engine += time.perf_counter() - started
        if event is None:
            return engine, time.perf_counter() - begun - engine
        if held:
            time.sleep(held)
