"""Pieces of functions: the words for each, its code, and a Python function for the same, so no code is executed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FUNCTIONS = (
    "solve", "compute", "process", "run", "answer", "result", "find", "build", "make", "work", "task", "apply",
)  # fmt: skip
LIST_NAMES = ("values", "numbers", "items", "data", "nums", "entries", "elements", "row")
TEXT_NAMES = ("text", "line", "word", "string", "phrase", "title", "message", "sentence")
NUMBER_NAMES = ("n", "number", "value", "count", "size", "limit", "total", "top")
PAIRS = (("a", "b"), ("x", "y"), ("left", "right"), ("first", "second"))


@dataclass(frozen=True, slots=True)
class CodePiece:
    """One piece. asked: its wordings. code: its Python code. does: computes the same, for the examples."""

    asked: tuple[str, ...]
    code: str
    does: Callable[..., Any]


def _kept() -> tuple[CodePiece, ...]:
    pieces = [
        CodePiece(("even numbers", "numbers divisible by two"), "x % 2 == 0", lambda x: x % 2 == 0),
        CodePiece(("odd numbers", "numbers not divisible by two"), "x % 2 == 1", lambda x: x % 2 == 1),
        CodePiece(("positive numbers", "numbers above zero"), "x > 0", lambda x: x > 0),
        CodePiece(("negative numbers", "numbers below zero"), "x < 0", lambda x: x < 0),
        CodePiece(("numbers other than zero", "numbers that are not zero"), "x != 0", lambda x: x != 0),
    ]
    for n in (2, 3, 5, 8, 10):
        asked = (f"numbers greater than {n}", f"numbers above {n}")
        pieces.append(CodePiece(asked, f"x > {n}", lambda x, n=n: x > n))
    for n in (3, 4, 6, 9):
        asked = (f"numbers less than {n}", f"numbers below {n}")
        pieces.append(CodePiece(asked, f"x < {n}", lambda x, n=n: x < n))
    for n in (3, 4, 5, 7):
        asked = (f"numbers divisible by {n}", f"multiples of {n}")
        pieces.append(CodePiece(asked, f"x % {n} == 0", lambda x, n=n: x % n == 0))
    return tuple(pieces)


def _changed() -> tuple[CodePiece, ...]:
    pieces = [
        CodePiece(("the squares of {what}", "{what}, squared,"), "x * x", lambda x: x * x),
        CodePiece(("the doubles of {what}", "twice {what}"), "x * 2", lambda x: x * 2),
        CodePiece(("the triples of {what}", "three times {what}"), "x * 3", lambda x: x * 3),
        CodePiece(("the absolute values of {what}", "the distances from zero of {what}"), "abs(x)", abs),
        CodePiece(("the opposites of {what}", "{what}, negated,"), "-x", lambda x: -x),
        CodePiece(
            ("the halves, rounded down, of {what}", "{what}, halved and rounded down,"), "x // 2", lambda x: x // 2
        ),
    ]
    for n in (1, 2, 3, 5, 10):
        asked = (f"each of {{what}} plus {n}", f"{n} more than each of {{what}}")
        pieces.append(CodePiece(asked, f"x + {n}", lambda x, n=n: x + n))
    for n in (1, 2, 4):
        asked = (f"each of {{what}} minus {n}", f"{n} less than each of {{what}}")
        pieces.append(CodePiece(asked, f"x - {n}", lambda x, n=n: x - n))
    return tuple(pieces)


KEPT = _kept()
CHANGED = _changed()
# `{what}`: the words for the values; `{each}`: the value per number; `{loop}`: the loop with its condition
GATHERED = (
    CodePiece(("the sum of {what}", "the total of {what}"), "sum({each} {loop})", sum),
    CodePiece(("a list of {what}", "all of {what} in a list"), "[{each} {loop}]", list),
    CodePiece(("a sorted list of {what}", "{what} in rising order"), "sorted({each} {loop})", sorted),
    CodePiece(
        ("a reversed list of {what}", "{what} from last to first"),
        "[{each} {loop}][::-1]",
        lambda found: list(found)[::-1],
    ),
    CodePiece(
        ("the largest, or 0, of {what}", "the maximum, or 0, of {what}"),
        "max(({each} {loop}), default=0)",
        lambda f: max(f, default=0),
    ),
    CodePiece(
        ("the smallest, or 0, of {what}", "the minimum, or 0, of {what}"),
        "min(({each} {loop}), default=0)",
        lambda f: min(f, default=0),
    ),
    CodePiece(
        ("a sorted list without repeats of {what}", "{what} in rising order without repeats"),
        "sorted({{each} {loop}})",
        lambda f: sorted(set(f)),
    ),
)
# about the numbers that meet a condition, without a change; `does` gets the condition's value for each number
TESTED = (
    CodePiece(("how many {what} there are", "the count of {what}"), "sum(1 {loop})", sum),
    CodePiece(("whether there are any {what}", "True if there are {what}"), "any({condition} {plain})", any),
    CodePiece(("whether there are only {what}", "True if all are {what}"), "all({condition} {plain})", all),
)

TEXT_CHANGED = (
    CodePiece(("in upper case", "in capital letters"), ".upper()", str.upper),
    CodePiece(("in lower case", "in small letters"), ".lower()", str.lower),
    CodePiece(("reversed", "backwards"), "[::-1]", lambda text: text[::-1]),
    CodePiece(("without spaces", "with all spaces removed"), '.replace(" ", "")', lambda text: text.replace(" ", "")),
    CodePiece(
        ("with dashes for spaces", "with each space made a dash"), '.replace(" ", "-")', lambda t: t.replace(" ", "-")
    ),
    CodePiece(("without its first letter", "with the first letter cut off"), "[1:]", lambda text: text[1:]),
    CodePiece(("without its last letter", "with the last letter cut off"), "[:-1]", lambda text: text[:-1]),
    CodePiece(("repeated twice", "written two times"), " * 2", lambda text: text * 2),
    CodePiece(("repeated three times", "written three times"), " * 3", lambda text: text * 3),
)
TEXT_MEASURED = (
    CodePiece(("the length of {text}", "the number of characters in {text}"), "len({text})", len),
    CodePiece(
        ("the number of vowels in {text}", "how many vowels {text} has"),
        'sum(1 for c in {text} if c in "aeiou")',
        lambda text: sum(1 for c in text if c in "aeiou"),
    ),
    CodePiece(
        ("the number of words in {text}", "how many words {text} has"), "len({text}.split())", lambda t: len(t.split())
    ),
    CodePiece(
        ("the first letter of {text}", "the letter that {text} starts with"), "{text}[:1]", lambda text: text[:1]
    ),
    CodePiece(("the last letter of {text}", "the letter that {text} ends with"), "{text}[-1:]", lambda text: text[-1:]),
    CodePiece(("{text} cut into words", "{text} split into words"), "{text}.split()", str.split),
    CodePiece(("{text} cut into letters", "{text} split into letters"), "list({text})", list),
    CodePiece(("the sorted letters of {text}", "the letters of {text} in order"), "sorted({text})", sorted),
    *(
        CodePiece(
            (f'the number of "{letter}" in {{text}}', f'how often "{letter}" is in {{text}}'),
            f'{{text}}.count("{letter}")',
            lambda text, letter=letter: text.count(letter),
        )
        for letter in "aeost"
    ),
)
WORDS_KEPT = (
    CodePiece(("words",), "", lambda word: True),
    *(
        CodePiece(
            (f"words longer than {n} letters", f"words of more than {n} letters"),
            f" if len(w) > {n}",
            lambda w, n=n: len(w) > n,
        )
        for n in (2, 3, 4)
    ),
    *(
        CodePiece(
            (f'words with "{letter}"', f'words that hold "{letter}"'),
            f' if "{letter}" in w',
            lambda w, letter=letter: letter in w,
        )
        for letter in "aeo"
    ),
)
WORDS_CHANGED = (
    CodePiece(("the {what}", "all the {what}"), "w", lambda word: word),
    CodePiece(("the lengths of the {what}", "the sizes of the {what}"), "len(w)", len),
    CodePiece(("the {what}, each reversed,", "the {what}, each backwards,"), "w[::-1]", lambda word: word[::-1]),
    CodePiece(("the first letters of the {what}", "the starting letters of the {what}"), "w[0]", lambda word: word[0]),
    CodePiece(("the {what} in upper case", "the {what} in capital letters"), "w.upper()", str.upper),
)
WORDS_GATHERED = (
    CodePiece(("a list of {what}", "all of {what} in a list"), "[{each} {loop}]", list),
    CodePiece(("a sorted list of {what}", "{what} in rising order"), "sorted({each} {loop})", sorted),
)
WORDS_JOINED = tuple(
    CodePiece(
        (f"{{what}} joined with {name}", f"one text of {{what}} with {name} between"),
        f'"{mark}".join({{each}} {{loop}})',
        mark.join,
    )
    for name, mark in (("dashes", "-"), ("commas", ","), ("spaces", " "), ("plus signs", "+"))
)

# functions of one integer: `{arg}` is its name
NUMBERS = (
    CodePiece(("whether {arg} is even", "True if {arg} is even"), "return {arg} % 2 == 0", lambda n: n % 2 == 0),
    CodePiece(("whether {arg} is odd", "True if {arg} is odd"), "return {arg} % 2 == 1", lambda n: n % 2 == 1),
    CodePiece(("the square of {arg}", "{arg} times itself"), "return {arg} * {arg}", lambda n: n * n),
    CodePiece(("the cube of {arg}", "{arg} to the third power"), "return {arg} * {arg} * {arg}", lambda n: n * n * n),
    CodePiece(("the absolute value of {arg}", "how far {arg} is from zero"), "return abs({arg})", abs),
    CodePiece(
        ("the number of digits of {arg}", "how many digits {arg} has"), "return len(str({arg}))", lambda n: len(str(n))
    ),
    CodePiece(
        ("the sum of the digits of {arg}", "the digit sum of {arg}"),
        "return sum(int(d) for d in str({arg}))",
        lambda n: sum(int(d) for d in str(n)),
    ),
    CodePiece(
        ("the factorial of {arg}", "the product of 1 to {arg}"),
        "result = 1\n    for i in range(2, {arg} + 1):\n        result *= i\n    return result",
        math.factorial,
    ),
    CodePiece(("the last digit of {arg}", "the final digit of {arg}"), "return {arg} % 10", lambda n: n % 10),
    CodePiece(
        ("{arg} limited to 0 to 10", "{arg} kept between 0 and 10"),
        "return max(0, min(10, {arg}))",
        lambda n: max(0, min(10, n)),
    ),
    CodePiece(
        ("{arg} limited to 0 to 5", "{arg} kept between 0 and 5"),
        "return max(0, min(5, {arg}))",
        lambda n: max(0, min(5, n)),
    ),
)
# functions of two numbers named `{a}` and `{b}`
TWO_NUMBERS = (
    CodePiece(("the larger of {a} and {b}", "the maximum of {a} and {b}"), "max({a}, {b})", max),
    CodePiece(("the smaller of {a} and {b}", "the minimum of {a} and {b}"), "min({a}, {b})", min),
    CodePiece(("the sum of {a} and {b}", "{a} plus {b}"), "{a} + {b}", lambda a, b: a + b),
    CodePiece(("the product of {a} and {b}", "{a} times {b}"), "{a} * {b}", lambda a, b: a * b),
    CodePiece(
        ("the distance between {a} and {b}", "how far {a} is from {b}"), "abs({a} - {b})", lambda a, b: abs(a - b)
    ),
    CodePiece(
        ("the remainder of {a} divided by {b}", "what is left of {a} divided by {b}"), "{a} % {b}", lambda a, b: a % b
    ),
    CodePiece(("whether {a} is greater than {b}", "True if {a} is above {b}"), "{a} > {b}", lambda a, b: a > b),
    CodePiece(
        ("whether {a} is divisible by {b}", "True if {b} divides {a}"), "{a} % {b} == 0", lambda a, b: a % b == 0
    ),
    CodePiece(("the average of {a} and {b}", "the mean of {a} and {b}"), "({a} + {b}) / 2", lambda a, b: (a + b) / 2),
)
