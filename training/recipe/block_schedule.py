"""Block growth: the block size of each training step.

NBDiff, Eq. 3: b(s) = min(b_max, b_0 * r ** floor(max(0, s - s_0) / Delta)). s_0 and Delta are fractions of the run, so
that a shorter run (`--max-steps`) gives each block size the same share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BlockSize = Annotated[int, Field(ge=1, le=1024)]


class BlockGrowth(BaseModel):
    """How the block size grows. The defaults are the paper's sizes over the first 2,500 of its 4,000 steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["geometric", "list", "fixed"] = Field(
        default="geometric", description="geometric: Eq. 3; list: block sizes and their starts; fixed: always b_max"
    )
    b_0: BlockSize = Field(default=1, description="first block size, tokens")
    ratio: int = Field(default=2, ge=2, description="growth factor r of the block size")
    b_max: BlockSize = Field(default=32, description="last block size, tokens: the one of the final model")
    start: float = Field(default=0.0, ge=0, lt=1, description="s_0, where growth begins, as a fraction of the run")
    interval: float = Field(
        default=0.125, gt=0, le=1, description="Delta, the duration of each size, as a fraction of the run"
    )
    sizes: tuple[BlockSize, ...] = Field(default=(), description="list: the block sizes in order")
    starts: tuple[float, ...] = Field(
        default=(), description="list: where each size begins, all as fractions of the run or all as step numbers"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.b_0 > self.b_max:
            raise ValueError(f"b_0 is {self.b_0}, but b_max is {self.b_max}; set b_0 to at most b_max")
        if self.kind == "list":
            if not self.sizes or len(self.sizes) != len(self.starts):
                raise ValueError(
                    f"there are {len(self.starts)} starts and {len(self.sizes)} sizes; give as many starts as sizes"
                )
            if self.starts[0] != 0 or any(a >= b for a, b in pairwise(self.starts)):
                raise ValueError(f"starts is {list(self.starts)}; the values must begin at 0 and increase")
            later = self.starts[1:]
            if not (all(at < 1 for at in later) or all(at >= 1 and at.is_integer() for at in later)):
                raise ValueError(
                    f"starts is {list(self.starts)}; give all as fractions of the run, below 1, or all as step numbers"
                )
            if self.sizes[-1] != self.b_max:
                raise ValueError(f"the last of sizes is {self.sizes[-1]}, but b_max is {self.b_max}; make them equal")
        return self

    @property
    def in_steps(self) -> bool:
        """Whether the sizes begin at given steps, however long the run is."""
        return self.kind == "list" and self.starts[-1] >= 1

    def over(self, max_steps: int) -> "BlockSchedule":
        """The schedule of a run of `max_steps` steps."""
        return BlockSchedule(tuple(self._stages(max_steps)))

    def _stages(self, max_steps: int) -> Sequence[tuple[int, int]]:
        if self.kind == "fixed":
            return [(0, self.b_max)]
        if self.kind == "list":
            firsts = [round(at * max_steps) if at < 1 else int(at) for at in self.starts]
            return list(zip(firsts, self.sizes))
        stages, size, k = [], self.b_0, 0
        while True:
            first = 0 if k == 0 else round((self.start + k * self.interval) * max_steps)
            stages.append((first, size))
            if size == self.b_max:
                return stages
            size, k = min(self.b_max, size * self.ratio), k + 1


@dataclass(frozen=True, slots=True)
class BlockSchedule:
    """Stages (first step, block size) in increasing order. Steps count from 0."""

    stages: tuple[tuple[int, int], ...]

    def at(self, step: int) -> int:
        """The block size of a step. If two stages begin at the same step of a very short run, the later is used."""
        return [size for first, size in self.stages if first <= step][-1]

    def phases(self, max_steps: int) -> list[tuple[int, int, int]]:
        """(first step, end, block size) of the sizes that a run of `max_steps` steps trains with; at the end, the next
        one begins."""
        ends = [first for first, _ in self.stages[1:]] + [max_steps]
        found = [(first, min(end, max_steps), size) for (first, size), end in zip(self.stages, ends, strict=True)]
        return [phase for phase in found if phase[0] < phase[1]]
