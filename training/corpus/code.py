"""Small Python functions composed of pieces: a condition, a change of each value, and a way to collect the values."""

from random import Random
from typing import Any

from nbdiff_engine.tasks.problem import Problem
from training.corpus.code_pieces import (
    CHANGED,
    FUNCTIONS,
    GATHERED,
    KEPT,
    LIST_NAMES,
    NUMBER_NAMES,
    NUMBERS,
    PAIRS,
    TESTED,
    TEXT_CHANGED,
    TEXT_MEASURED,
    TEXT_NAMES,
    TWO_NUMBERS,
    WORDS_CHANGED,
    WORDS_GATHERED,
    WORDS_JOINED,
    WORDS_KEPT,
    CodePiece,
)
from training.corpus.keyed_problem import KeyedProblem

_LISTS = ([1, 2, 3, 4, 5, 6], [-3, 0, 7, 10, -8, 4], [], [9, 9, 2, 12], [15, 20, -5, 21], [5, -2, 3])
_LIMITS = (0, 1, 5, 8, 12, 21)
_TEXTS = ("hello world", "a cat sat on the mat", "Tea", "", "red green blue orange", "see the stars")
_WHOLE = (0, 1, 2, 5, 7, 12)
_PAIRS_TRIED = ((3, 8), (12, 4), (7, 7), (10, 3), (-6, 5), (20, 5))
_ASKING = ("Write a Python function", "Define a Python function", "Create a Python function")
_ALL = CodePiece(("numbers",), "", lambda x: True)
_UNCHANGED = CodePiece(("{what}",), "x", lambda x: x)
# without the conditions that have the same value for all numbers from 1
_KEPT_UP_TO = tuple(piece for piece in KEPT if piece.code not in ("x > 0", "x < 0", "x != 0"))
_TEXT_UNCHANGED = CodePiece(("{what}",), "", lambda text: text)
_REPEATS = tuple(piece for piece in TEXT_CHANGED if "*" in piece.code)  # no method call may follow an operator
_CALLS = tuple(piece for piece in TEXT_CHANGED if "*" not in piece.code)


def draw(rng: Random) -> KeyedProblem:
    """Draw a function over a list, over the numbers up to a limit, over a text, or of one or two numbers."""
    kind = rng.random()
    if kind < 0.5:
        return _numbers(rng)
    if kind < 0.64:
        return _tested(rng)
    if kind < 0.78:
        return _text(rng)
    return _words(rng) if kind < 0.9 else _arithmetic(rng)


def _pick(rng: Random, pieces: tuple[CodePiece, ...]) -> tuple[CodePiece, str]:
    piece = rng.choice(pieces)
    return piece, rng.choice(piece.asked)


def _keyed(
    rng: Random, asked: str, body: str, argument: str, examples: list[list[Any]], names_count: bool = False
) -> KeyedProblem:
    """`{arg}` is replaced by the argument's name in `asked` and `body`.

    names_count: whether the key contains the names. It does for small families, because otherwise some wording might
    have no problem in the train split.
    """
    function = rng.choice(FUNCTIONS)
    prompt = f"{rng.choice(_ASKING)} {function}({argument}) that returns {asked.replace('{arg}', argument)}."
    answer = f"def {function}({argument}):\n    {body.replace('{arg}', argument)}"
    problem = Problem("code", prompt, answer, {"name": function, "examples": examples})
    return KeyedProblem(prompt if names_count else asked, problem)


def _source(rng: Random) -> tuple[str, str, str, tuple[Any, ...]]:
    """Numbers of a list or up to a limit: the argument's name, the words, the code, and arguments for the examples."""
    if rng.random() < 0.7:
        return rng.choice(LIST_NAMES), "in {arg}", "{arg}", _LISTS
    return rng.choice(NUMBER_NAMES), "from 1 to {arg}", "range(1, {arg} + 1)", _LIMITS


def _read(given: Any) -> Any:
    return given if isinstance(given, list) else range(1, given + 1)


def _numbers(rng: Random) -> KeyedProblem:
    argument, where, iterable, tried = _source(rng)
    pieces = KEPT if iterable == "{arg}" else _KEPT_UP_TO
    kept, what = _pick(rng, pieces) if rng.random() < 0.8 else (_ALL, "numbers")
    changed, change = _pick(rng, CHANGED) if rng.random() < 0.75 else (_UNCHANGED, "{what}")
    gathered, gathering = _pick(rng, GATHERED)
    asked = gathering.replace("{what}", change.replace("{what}", f"the {what} {where}"))
    loop = f"for x in {iterable}" + (f" if {kept.code}" if kept.code else "")
    code = gathered.code.replace("{each}", changed.code).replace("{loop}", loop)
    examples = [[[given], gathered.does([changed.does(x) for x in _read(given) if kept.does(x)])] for given in tried]
    return _keyed(rng, asked, f"return {code}", argument, examples)


def _tested(rng: Random) -> KeyedProblem:
    argument, where, iterable, tried = _source(rng)
    kept, what = _pick(rng, KEPT if iterable == "{arg}" else _KEPT_UP_TO)
    tested, testing = _pick(rng, TESTED)
    plain = f"for x in {iterable}"
    code = tested.code.replace("{loop}", f"{plain} if {kept.code}")
    code = code.replace("{condition}", kept.code).replace("{plain}", plain)
    examples = [[[given], tested.does([kept.does(x) for x in _read(given)])] for given in tried]
    return _keyed(rng, f"{testing.replace('{what}', what)} {where}", f"return {code}", argument, examples)


def _text(rng: Random) -> KeyedProblem:
    first, first_words = _pick(rng, _CALLS)
    if rng.random() < 0.5:
        second, second_words = _pick(rng, TEXT_CHANGED)
        if second is first:
            second, second_words = _pick(rng, _REPEATS)
        asked, code = f"{{arg}} {first_words} and then {second_words}", f"{{arg}}{first.code}{second.code}"
    else:
        if rng.random() < 0.3:
            first, first_words = _TEXT_UNCHANGED, ""
        second, measure = _pick(rng, TEXT_MEASURED)
        asked = measure.replace("{text}", f"{{arg}} {first_words}".rstrip())
        code = second.code.replace("{text}", f"{{arg}}{first.code}")
    examples = [[[given], second.does(first.does(given))] for given in _TEXTS]
    return _keyed(rng, asked, f"return {code}", rng.choice(TEXT_NAMES), examples)


def _words(rng: Random) -> KeyedProblem:
    kept, what = _pick(rng, WORDS_KEPT)
    changed, change = _pick(rng, WORDS_CHANGED)
    gathered, gathering = _pick(rng, WORDS_GATHERED if changed.does is len or rng.random() < 0.5 else WORDS_JOINED)
    asked = gathering.replace("{what}", change.replace("{what}", f"{what} of {{arg}}"))
    code = gathered.code.replace("{each}", changed.code).replace("{loop}", f"for w in {{arg}}.split(){kept.code}")
    examples = [[[given], gathered.does([changed.does(w) for w in given.split() if kept.does(w)])] for given in _TEXTS]
    return _keyed(rng, asked, f"return {code}", rng.choice(TEXT_NAMES), examples)


def _arithmetic(rng: Random) -> KeyedProblem:
    if rng.random() < 0.55:
        piece, asked = _pick(rng, NUMBERS)
        examples = [[[given], piece.does(given)] for given in _WHOLE]
        return _keyed(rng, asked, piece.code, rng.choice(NUMBER_NAMES), examples, names_count=True)
    piece, asked = _pick(rng, TWO_NUMBERS)
    a, b = rng.choice(PAIRS)
    examples = [[list(pair), piece.does(*pair)] for pair in _PAIRS_TRIED]
    asked, code = (text.replace("{a}", a).replace("{b}", b) for text in (asked, piece.code))
    return _keyed(rng, asked, f"return {code}", f"{a}, {b}", examples, names_count=True)
