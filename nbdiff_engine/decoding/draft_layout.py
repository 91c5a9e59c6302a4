"""Which drafts a forward verifies, and after which of its tokens it has noise rows for the next drafts.

A forward of self-speculation reads the last final token and the k drafts after it as clean rows. AR accepts the first
a <= k of these drafts, and AR's own token follows them: a is the acceptance point. The noise rows after point i predict
the tokens after AR's token there, so they are the next drafts if a = i. Noise rows after another point are wasted. If
the acceptance point has no noise rows, the next forward has no drafts to verify.

- `separate`: all drafts are verified. Only a forward without drafts has noise rows, after the last final token.
- `behind_last`: the drafts whose joint confidence is above a limit are verified, and the noise rows come after the last
  of them (TiDAR, arXiv 2511.08923).
- `behind_each`: all are verified, with noise rows after every point (the quadratic layout, arXiv 2507.11851).
- `auto`: `AdaptiveLayout`, from the measured cost of a forward's width and the drafts accepted so far.

A forward can also verify candidates: other tokens that the drafter found likely at the place of a draft (tree
verification, arXiv 2609.04010). The tree is the chain of drafts with leaves: a candidate at draft j sees the drafts
before j. If AR's token there is the candidate, the forward gives one more final token, the one after it. A deeper tree
would need drafts that follow the candidate; the drafter makes all drafts at once, so it has none.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Protocol

from nbdiff_engine.model.passes import SHARED_WIDTH

_WIDEST = SHARED_WIDTH  # tokens of a pass: wider ones do not share a forward with other rows
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256  # tokens that AR decodes before a draft that costs up to a forward is tried
_TRIAL = 2.0  # forwards of one token that a trial may cost more than AR's, if a smaller one does not cost more too
_PRIOR, _PRIOR_WEIGHT = 0.6, 2.0  # of the share of right drafts: optimistic, so that drafts are tried
_FORGET = 0.97  # the weight of a tested draft after one more test
_SURE = 0.98  # no draft is more certain than this
_HOPELESS = 0.02  # drafts less likely to be accepted are not verified


@dataclass(frozen=True, slots=True)
class Draft:
    """A token that noise rows drafted. distance: from 1, of its noise row from the anchor. others: the drafter's
    next-best tokens, each with its share: the probability that it is right if `token` is not."""

    token: int
    confidence: float
    distance: int
    others: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """verified: how many drafts become clean rows. points: (acceptance point, drafts to make after it), in order.
    leaves: the candidates, as (distance from the last final token, token): from 1 to `verified` + 1."""

    verified: int = 0
    points: tuple[tuple[int, int], ...] = ()
    leaves: tuple[tuple[int, int], ...] = ()

    @property
    def reach(self) -> int:
        """How many positions after the last final token have a draft or a candidate that is verified."""
        return max([self.verified, *(at for at, _ in self.leaves)])


@dataclass(frozen=True, slots=True)
class Shape:
    """How many rows a number of drafts takes. most: the most drafts of one anchor. extra: rows of a group that draft
    nothing. A draft adapter has none; a block of the paper's way also has its first token and its last one."""

    most: int
    extra: int

    @classmethod
    def of(cls, block_size: int, adapter: bool) -> "Shape":
        return cls(block_size - 1, 0) if adapter else cls(max(0, block_size - 2), 2)

    def rows(self, drafts: int) -> int:
        return drafts + self.extra if drafts > 0 else 0


class Layout(Protocol):
    """One row's choice of drafts, forward by forward."""

    def choose(self, drafts: Sequence[Draft], room: int, end_token_ids: Collection[int]) -> LayoutChoice:
        """The choice for the next forward. room: how many tokens the answer can still have, at least 1."""

    def observe(self, tested: Sequence[tuple[Draft, int]]) -> None:
        """Note AR's tokens at the places of drafts: of those that AR has accepted, and of the first that it has not."""


def within(points: Collection[int], width: int, shape: Shape, most: int, room: int) -> tuple[tuple[int, int], ...]:
    """Noise rows after each of `points`, the most important point first.

    At most `most` drafts each, no more than the answer has room for after AR's token there, and as many points as the
    widest pass holds. width: its other tokens.
    """
    left = _WIDEST - width
    found = []
    for point in points:
        count = min(most, room - point - 1)
        if count > 0 and shape.rows(count) <= left:
            left -= shape.rows(count)
            found.append((point, count))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Leaf:
    """A candidate. chance: that AR accepts the drafts before it, and that its token is AR's at its place. drafted:
    whether it is the draft of its place, which is a candidate only where it is not verified as a draft."""

    chance: float
    distance: int
    token: int
    drafted: bool

    def fits(self, verified: int) -> bool:
        return self.distance <= verified + 1 and not (self.drafted and self.distance <= verified)


def likely_leaves(drafts: Sequence[Draft], chances: Sequence[float], room: int, ratio: float = 1.0) -> list[Leaf]:
    """The candidates of drafts, the most likely first. chances: for each number of drafts from 1, that at least so many
    are accepted. room: tokens that the answer can still have. ratio: by which the drafter's shares are multiplied."""
    found = []
    reached = 1.0
    for distance, (draft, chance) in enumerate(zip(drafts[: max(0, room - 1)], chances), start=1):
        found.append(Leaf(chance, distance, draft.token, True))
        for token, share in draft.others:
            found.append(Leaf((reached - chance) * min(_SURE, ratio * share), distance, token, False))
        reached = chance
    return sorted((each for each in found if each.chance > _HOPELESS), key=lambda leaf: -leaf.chance)


class FixedLayout:
    """The same layout in every forward."""

    def __init__(self, name: str, shape: Shape, least_confidence: float, candidates: int = 0):
        """name: `separate`, `behind_last` or `behind_each`. least_confidence: of `behind_last`. candidates: of a
        forward with drafts."""
        self._name = name
        self._shape = shape
        self._least = least_confidence
        self._candidates = candidates

    def choose(self, drafts: Sequence[Draft], room: int, end_token_ids: Collection[int]) -> LayoutChoice:
        verified = min(len(drafts), room - 1)
        if self._name == "behind_last":
            verified = min(verified, _above([each.confidence for each in drafts], self._least))
        leaves = self.leaves(drafts, verified, room)
        ends = any(each.token in end_token_ids for each in drafts[:verified])
        points: Sequence[int] = (verified,)
        if self._name == "behind_each":
            points = range(verified + 1)
        if ends or (self._name == "separate" and verified):
            points = ()
        width = 1 + verified + len(leaves)
        return LayoutChoice(verified, within(points, width, self._shape, self._shape.most, room), leaves)

    def leaves(self, drafts: Sequence[Draft], verified: int, room: int) -> tuple[tuple[int, int], ...]:
        """The candidates of a forward that verifies so many of the drafts, as in `LayoutChoice`."""
        if not self._candidates:
            return ()
        most = min(self._candidates, _WIDEST - 1 - verified)
        found = likely_leaves(drafts, list(accumulate((each.confidence for each in drafts), mul)), room)
        return tuple((each.distance, each.token) for each in found if each.fits(verified))[:most]

    def observe(self, tested: Sequence[tuple[Draft, int]]) -> None:
        pass


def _above(confidences: Sequence[float], least: float) -> int:
    """How many of the first drafts have a joint confidence above `least`."""
    joint = accumulate(confidences, mul)
    return next((index for index, each in enumerate(joint) if each <= least), len(confidences))


class ObservedAcceptance:
    """The share of right drafts so far, by distance, among those whose earlier drafts were right; and how it compares
    with their confidence. A distance that was seldom reached is assumed to have the share of all of them. Likewise, how
    the candidates that were AR's tokens, where the draft was not, compare with their shares."""

    def __init__(self, most: int):
        self._right = [0.0] * most
        self._tested = [0.0] * most
        self._all_right, self._all_tested = _PRIOR * _PRIOR_WEIGHT, _PRIOR_WEIGHT
        self._accepted = self._expected = 2 * _PRIOR_WEIGHT
        self._found = self._offered = _PRIOR_WEIGHT
        self.tested = False  # any draft

    def assume(self, drafts: Sequence[Draft]) -> None:
        """Take the mean confidence of the first drafts for the share of right ones, until some are tested."""
        self._all_right = _PRIOR_WEIGHT * sum(each.confidence for each in drafts) / len(drafts)

    def observe(self, draft: Draft, token: int) -> None:
        """Note AR's token at the place of a draft."""
        right = draft.token == token
        self.tested = True
        at = draft.distance - 1
        self._right[at] = _FORGET * self._right[at] + right
        self._tested[at] = _FORGET * self._tested[at] + 1
        self._all_right = _FORGET * self._all_right + right
        self._all_tested = _FORGET * self._all_tested + 1
        self._accepted = _FORGET * self._accepted + right
        self._expected = _FORGET * self._expected + draft.confidence
        if draft.others and not right:
            self._found = _FORGET * self._found + any(other == token for other, _ in draft.others)
            self._offered = _FORGET * self._offered + sum(share for _, share in draft.others)

    def forget(self) -> None:
        """Count all that was seen as little as the first assumption, so that the next draft decides."""
        self._right, self._tested = ([0.0] * len(self._right) for _ in range(2))
        self._all_right *= _PRIOR_WEIGHT / max(_PRIOR_WEIGHT, self._all_tested)
        self._all_tested = min(_PRIOR_WEIGHT, self._all_tested)

    @property
    def shares(self) -> list[float]:
        of_all = self._all_right / self._all_tested
        return [
            (right + of_all * _PRIOR_WEIGHT) / (tested + _PRIOR_WEIGHT)
            for right, tested in zip(self._right, self._tested)
        ]

    def chances(self, drafts: Sequence[Draft]) -> list[float]:
        """For each number of drafts, the probability that at least so many are accepted."""
        ratio = self._accepted / self._expected
        return list(accumulate((min(_SURE, ratio * each.confidence) for each in drafts), mul))

    @property
    def share_ratio(self) -> float:
        return self._found / self._offered


class CostByWidth(Protocol):
    """The seconds of a forward by its tokens, relative to a forward of one token."""

    def __call__(self, tokens: int) -> float: ...


class AdaptiveLayout:
    """Chooses what gives the most final tokens for its cost.

    Let `rate` be the tokens per cost of one token's forward that drafting reaches in the long run, by the shares of
    right drafts so far, in the best of the three layouts. A forward of cost c that gives e final tokens is worth
    e - rate * c. A forward that leaves drafts for the next one saves a separate forward for drafting, which would give
    one final token: `value` = rate * c(draft) - 1. Each choice takes the largest expected worth.

    A candidate gives one more final token if it is right. After a point with noise it does so only if the first draft
    made there is wrong: the drafts were made at the same time, and the next forward would have accepted a right one.

    One draft is tried in any case. If the rate is below AR's, AR decodes for a while, then one is tried again; the
    pause doubles with each trial that does not pay. Drafts that are not verified are also compared with AR's tokens,
    which costs nothing.
    """

    def __init__(
        self,
        shape: Shape,
        cost: CostByWidth,
        rows: int,
        backoff: bool,
        candidates: int = 0,
        clean_cost: CostByWidth | None = None,
    ):
        """cost: of forwards with noise rows; clean_cost: of those without, None: the same. rows: of the batch. backoff:
        whether AR decodes while drafts do not pay. candidates: at most, per forward."""
        clean_cost = clean_cost or cost
        one = clean_cost(rows)
        # By width, of a forward with noise rows and of one without.
        self._costs, self._clean_costs = (
            [0.0] + [of(width * rows) / one for width in range(1, _WIDEST + 1)] for of in (cost, clean_cost)
        )
        self._shape = shape
        self._backoff = backoff
        self._candidates = candidates
        self._acceptance = ObservedAcceptance(shape.most)
        self._counts = sorted({*(n for n in (1, 2, 3, 5, 7, 11, 15, 23) if n < shape.most), shape.most} - {0})
        self._pause, self._left, self._trial = _FIRST_PAUSE, 0, True
        trials = [(count, self._cost(1 + shape.rows(count)) - 1) for count in self._counts]
        affordable = [each for each in trials if each[1] <= _TRIAL] or trials[:1]
        self._trial_count, self._trial_cost = affordable[-1] if affordable else (0, 0.0)
        self._settle()

    def choose(self, drafts: Sequence[Draft], room: int, end_token_ids: Collection[int]) -> LayoutChoice:
        if not self._counts or room < 2:
            return LayoutChoice()
        if self._left:
            self._left -= 1
            self._trial = not self._left
            return LayoutChoice()
        if drafts:
            if not self._acceptance.tested:
                self._acceptance.assume(drafts)
                self._settle()
            return self._best(drafts[: room - 1], room, end_token_ids)
        if self._backoff and self._rate < 1 and not self._trial:
            self._left = round(self._pause * max(1.0, self._trial_cost)) - 1
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._acceptance.forget()
            return LayoutChoice()
        count = self._trial_count if self._trial else self._count  # a trial is long: it shows the share by distance
        self._trial = False
        return LayoutChoice(0, within((0,), 1, self._shape, count, room))

    def observe(self, tested: Sequence[tuple[Draft, int]]) -> None:
        for draft, token in tested:
            self._acceptance.observe(draft, token)
        if tested:
            self._settle()
            if self._rate > 1.05:
                self._pause = _FIRST_PAUSE

    def _settle(self) -> None:
        """Choose the number of drafts and the rate that it reaches."""
        found = [(self._rate_of(count), count) for count in self._counts]
        self._rate, self._count = max(found, default=(0.0, 0))
        self._value = self._rate * self._cost(1 + self._shape.rows(self._count)) - 1

    def _cost(self, width: int) -> float:
        return self._costs[min(width, _WIDEST)]

    def _clean_cost(self, width: int) -> float:
        return self._clean_costs[min(width, _WIDEST)]

    def _rate_of(self, count: int) -> float:
        """The tokens per cost of the best layout with this number of drafts."""
        chances = list(accumulate(self._acceptance.shares[:count], mul))
        rows, draft = self._shape.rows(count), self._cost(1 + self._shape.rows(count))
        best, accepted = 0.0, 0.0
        for verified, chance in enumerate(chances, start=1):
            accepted += chance
            missed = 1 - chance  # then a forward only drafts, and gives one final token
            best = max(best, (1 + accepted + missed) / (self._cost(1 + verified + rows) + missed * draft))
            if 1 + verified + (verified + 1) * rows <= _WIDEST:
                best = max(best, (1 + accepted) / self._cost(1 + verified + (verified + 1) * rows))
        return max(best, (2 + accepted) / (self._clean_cost(1 + count) + draft))

    def _best(self, drafts: Sequence[Draft], room: int, end_token_ids: Collection[int]) -> LayoutChoice:
        all_chances = self._acceptance.chances(drafts)
        chances = [each for each in all_chances if each > _HOPELESS]
        leaves = []
        if self._candidates:
            leaves = likely_leaves(drafts, all_chances, room, self._acceptance.share_ratio)
        best, worth, expected = LayoutChoice(), float("-inf"), 1.0
        for verified in range(len(chances) + 1):
            expected += chances[verified - 1] if verified else 0.0
            at_least = [1.0, *chances[:verified], 0.0]
            stops = [at_least[point] - at_least[point + 1] for point in range(verified + 1)]
            ends = any(each.token in end_token_ids for each in drafts[:verified])
            order = [] if ends else sorted(range(verified + 1), key=lambda point: -stops[point])
            width, points = 1 + verified, []
            found, gain = self._leaves(leaves, verified, width, ())
            own = expected - self._rate * self._clean_cost(width)
            if own + gain > worth:
                best, worth = LayoutChoice(verified, (), found), own + gain
            own = expected - self._rate * self._cost(width)
            for point in order:
                count = min(self._count, room - point - 1)
                rows = self._shape.rows(count)
                gain = stops[point] * self._value - self._rate * (self._cost(width + rows) - self._cost(width))
                if count <= 0 or gain <= 0 or width + rows > _WIDEST:
                    break
                points.append((point, count))
                width, own = width + rows, own + gain
            if points:
                found, gain = self._leaves(leaves, verified, width, [point for point, _ in points])
                if own + gain > worth:
                    best, worth = LayoutChoice(verified, tuple(sorted(points)), found), own + gain
        return best

    def _leaves(
        self, leaves: Sequence[Leaf], verified: int, width: int, points: Collection[int]
    ) -> tuple[tuple[tuple[int, int], ...], float]:
        """The candidates that pay in a forward of `width` tokens with noise after `points`, and their worth."""
        cost = self._cost if points else self._clean_cost
        missed = 1 - self._acceptance.shares[0]  # the first draft after a point is wrong
        gains = [
            (leaf.chance * (missed if leaf.distance - 1 in points else 1), leaf)
            for leaf in leaves
            if leaf.fits(verified)
        ]
        found, worth = [], 0.0
        for gain, leaf in sorted(gains, key=lambda pair: -pair[0])[: self._candidates]:
            gain -= self._rate * (cost(width + 1) - cost(width))
            if gain <= 0 or width >= _WIDEST:
                break
            found.append((leaf.distance, leaf.token))
            width, worth = width + 1, worth + gain
        return tuple(found), worth
