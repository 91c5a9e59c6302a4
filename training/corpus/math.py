"""Word problems. An answer computes one equation after the other, with the operands directly before the result."""

import operator
from collections.abc import Callable
from random import Random

from nbdiff_engine.tasks.problem import Problem
from training.corpus.keyed_problem import KeyedProblem
from training.corpus.people import two_people
from training.corpus.scenes import CONTAINERS, GOODS, PUZZLES, SCENES, THINGS, Puzzle, Scene

LARGEST = 999
_LARGEST_PRODUCT = 199
_STEPS, _STEP_WEIGHTS = (1, 2, 3, 4), (35, 35, 20, 10)
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
# slots that the first pass does not fill: its text is the key, so people and things do not affect the split
_LATER = {slot: f"{{{slot}}}" for slot in ("name", "other", "He", "he", "him", "his", "things", "boxes", "goods")}
_PUZZLES = {steps: [puzzle for puzzle in PUZZLES if len(puzzle.plan) == steps] for steps in _STEPS}
_PUZZLE_SHARE = {1: 0.45, 2: 0.4, 3: 0.25, 4: 0.2}
_PLAIN_SHARE = 0.1  # share of bare sums such as "What is 12 + 5 - 4?"
_PLAIN = ("What is {sum}?", "Compute {sum}.", "How much is {sum}?")

Equation = tuple[str, int, str, int, int]  # the words before it, left, operation, right, result
Worked = tuple[str, list[Equation]]  # the prompt with numbers, its slots for people and things unfilled; the equations


def draw(rng: Random) -> KeyedProblem:
    """Draw a word problem or, for one in ten, a bare sum."""
    steps = rng.choices(_STEPS, _STEP_WEIGHTS)[0]
    worked = None
    while worked is None:
        kind = rng.random()
        if kind < _PLAIN_SHARE:
            worked = _plain(rng, steps)
        elif kind < _PLAIN_SHARE + (1 - _PLAIN_SHARE) * _PUZZLE_SHARE[steps]:
            worked = _puzzle(rng, rng.choice(_PUZZLES[steps]))
        else:
            worked = _story(rng, rng.choice(SCENES), steps)
    return _keyed(rng, worked)


def draw_sum(rng: Random) -> KeyedProblem:
    """Draw a bare sum of two to four steps, which has more carries per token than a word problem."""
    worked = None
    while worked is None:
        worked = _plain(rng, rng.choice((2, 3, 4)))
    return _keyed(rng, worked)


def _keyed(rng: Random, worked: Worked) -> KeyedProblem:
    skeleton, equations = worked
    slots = two_people(rng)
    slots |= {"things": rng.choice(THINGS), "boxes": rng.choice(CONTAINERS), "goods": rng.choice(GOODS)}
    result = equations[-1][-1]
    answer = f"{_written(equations)} The answer is {result}.".format(**slots)
    return KeyedProblem(skeleton, Problem("math", skeleton.format(**slots), answer, {"result": result}))


def _written(equations: list[Equation]) -> str:
    """One or two equations keep their words. With more, the words are "First" and "Then", for a short answer."""
    words = [lead for lead, *_ in equations]
    leads = words if len(words) <= 2 else ["First", *["Then"] * (len(words) - 1)]
    return " ".join(
        f"{lead} {left} {operation} {right} = {result}.".lstrip()
        for lead, (_, left, operation, right, result) in zip(leads, equations)
    )


def _fits(value: int) -> bool:
    return 1 <= value <= LARGEST


def _start(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.72:
        return rng.randint(5, 60)
    return rng.randint(61, 150) if kind < 0.95 else rng.randint(151, 600)


def _change(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.7:
        return rng.randint(2, 20)
    return rng.randint(21, 60) if kind < 0.96 else rng.randint(61, 200)


def _factors(rng: Random) -> tuple[int, int]:
    """A factor of at most 9 and one of at most 20, with a product under 200."""
    small = rng.randint(2, 9)
    return small, rng.randint(2, 12) if rng.random() < 0.7 else rng.randint(2, 20)


def _story(rng: Random, scene: Scene, steps: int) -> Worked | None:
    """A problem of a scene with this many equations; None if the drawn numbers do not fit."""
    opens_with_product = rng.random() < 0.35
    ends_with = rng.choice(("*", "/", None, None))
    between = steps - opens_with_product - (ends_with is not None)
    if between < 0:
        return None
    small, large = _factors(rng)
    goal = {"*": large, "/": small * large, None: 0}[ends_with]
    sentences: list[str] = []
    equations: list[Equation] = []
    if opens_with_product:
        left, right = _factors(rng)
        if rng.random() < 0.5:
            left, right = right, left
        value = left * right
        sentences.append(scene.start_product.sentence.format(a=left, b=right, **_LATER))
        equations.append((scene.start_product.worked.format(b=right, **_LATER), left, "*", right, value))
        if ends_with and not between:
            if value % small or value // small < 2 if ends_with == "/" else value > 20:
                return None
            goal = value
    else:
        value = _start(rng) if ends_with is None else goal
        if ends_with and between:
            value = max(2, goal + rng.randint(-40, 40))
        sentences.append(scene.start.format(a=value, **_LATER))
    used: set[str] = set()
    for place in range(between):
        if ends_with and place == between - 1:
            amount = abs(goal - value)
            grows = goal > value
        else:
            amount = _change(rng)
            grows = rng.random() < 0.5
        event = rng.choice(scene.gains if grows else scene.losses)
        result = value + amount if grows else value - amount
        if amount < 2 or not _fits(result) or event.sentence in used:
            return None
        used.add(event.sentence)
        sentences.append(event.sentence.format(b=amount, **_LATER))
        equations.append((event.worked.format(b=amount, **_LATER), value, "+-"[not grows], amount, result))
        value = result
    if ends_with is None:
        sentences.append(rng.choice(scene.questions).format(**_LATER))
    else:
        event = rng.choice(scene.times if ends_with == "*" else scene.shares)
        result = _OPERATIONS[ends_with](value, small)
        if ends_with == "*" and result > _LARGEST_PRODUCT:
            return None
        sentences.append(event.sentence.format(b=small, **_LATER))
        equations.append((event.worked.format(b=small, **_LATER), value, ends_with, small, result))
    return " ".join(sentences), equations


def _puzzle(rng: Random, puzzle: Puzzle) -> Worked | None:
    """A problem with a fixed plan; None if the drawn numbers do not fit."""
    small, large = _factors(rng)
    numbers: dict[str, int] = {}
    for name, kind in puzzle.numbers.items():
        if kind == "start":
            numbers[name] = _start(rng)
        elif kind == "change":
            numbers[name] = _change(rng)
        elif kind == "age":
            numbers[name] = rng.randint(2, 60)
        elif kind == "short":  # the sum of two is the larger factor of a product
            numbers[name] = rng.randint(2, 10)
        elif kind == "multiple":  # of the number b
            numbers[name] = small * large
        elif kind == "long":
            numbers[name] = large
        elif kind == "factor":
            numbers[name] = small if name == "b" and "multiple" in puzzle.numbers.values() else rng.randint(2, 9)
    equations: list[Equation] = []
    known = dict(numbers)
    for (left, operation, right), lead in zip(puzzle.plan, puzzle.leads):
        for name in (left, right):
            if puzzle.numbers.get(name) == "above":  # larger than `right`, which is subtracted from it
                numbers[name] = known[name] = known[right] + _change(rng)
        first = known[left]
        second = known[right] if right in known else int(right)
        if operation == "/" and first % second:
            return None
        result = _OPERATIONS[operation](first, second)
        if not _fits(result) or (operation == "*" and (result > _LARGEST_PRODUCT or min(first, second) > 12)):
            return None
        equations.append((lead.format(**numbers, **_LATER), first, operation, second, result))
        known[f"r{len(equations)}"] = result
    if len(numbers) > 1 and puzzle.numbers.get("c") == "factor" and numbers["c"] == numbers.get("b"):
        return None
    return puzzle.text.format(**numbers, **_LATER), equations


def _plain(rng: Random, steps: int) -> Worked | None:
    """A bare sum, computed from left to right: only its first operation may be a product or a quotient."""
    small, large = _factors(rng)
    first = rng.choice("++--*/")
    value, text = (large, f"{large}") if first == "*" else (small * large, f"{small * large}")
    if first in "+-":
        value = _start(rng)
        text = f"{value}"
    equations: list[Equation] = []
    for place in range(steps):
        operation = first if place == 0 else rng.choice("+-")
        right = small if operation in "*/" else _change(rng)
        result = _OPERATIONS[operation](value, right)
        if not _fits(result) or (operation == "*" and result > _LARGEST_PRODUCT):
            return None
        text += f" {operation} {right}"
        equations.append(
            ("First" if place == 0 and steps > 1 else "Then" if place else "", value, operation, right, result)
        )
        value = result
    return rng.choice(_PLAIN).format(sum=text), equations
