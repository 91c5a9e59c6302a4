"""Rules that judge an answer only by the reference answer, for problems of any kind."""

import re
from collections.abc import Callable
from decimal import Decimal

from nbdiff_engine.errors import brief, brief_text

# A minus sign belongs to the number, unless a word, a number or a bracket precedes it, as in 10-12.
_NUMBER = re.compile(r"(?:(?<![\w)])[-\u2212])?\d+(?:,\d{3})*(?:\.\d+)?")


def says(text: str, words: str, exact_case: bool = False) -> bool:
    """Whether the text contains the words, with no letter or digit directly before or after them."""
    return bool(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, 0 if exact_case else re.IGNORECASE))


def last_number(text: str) -> Decimal | None:
    """The last number of a text, such as "-1,234.5"; None if there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def is_number(text: str) -> bool:
    """Whether a text is one number and nothing else."""
    return bool(_NUMBER.fullmatch(text.strip()))


def _contains(answer: str, text: str) -> tuple[bool, str]:
    """Right if the text contains the reference as whole words; the case and the number of spaces do not matter."""
    if says(" ".join(text.split()), " ".join(answer.split())):
        return True, f"It says {brief(answer)}."
    return False, f"It does not say {brief(answer)}."


def _exact(answer: str, text: str) -> tuple[bool, str]:
    """Right if the text equals the reference, except for spaces at its start and end."""
    if text.strip() == answer.strip():
        return True, f"It is {brief(answer)}."
    return False, f"It is not {brief(answer)}."


def _number(answer: str, text: str) -> tuple[bool, str]:
    """Right if the last number of the text equals the last number of the reference."""
    right, given = last_number(answer), last_number(text)
    if given is None:
        return False, f"It gives no number; the answer is {brief_text(str(right))}."
    if given == right:
        return True, f"It gives {brief_text(str(right))}."
    return False, f"It gives {brief_text(str(given))}; the answer is {brief_text(str(right))}."


# (reference, text) -> whether the text is right, and the reason in a sentence
RULES: dict[str, Callable[[str, str], tuple[bool, str]]] = {"contains": _contains, "exact": _exact, "number": _number}
