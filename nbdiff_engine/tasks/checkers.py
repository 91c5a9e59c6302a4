"""Judges whether an answer to a problem is right, and gives the reason in one sentence.

Each domain has a rule that uses the problem's facts. Three more rules need only the reference answer (plain_rules.py).
"""

import re
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.errors import SettingError, brief, brief_text
from nbdiff_engine.tasks import plain_rules, sandbox
from nbdiff_engine.tasks.plain_rules import says
from nbdiff_engine.tasks.problem import DOMAINS, Problem

_NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?"
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MIN_SENTENCES = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one answer. correct: None if the answer was not judged, because its code was not run."""

    correct: bool | None
    why: str


def check(problem: Problem, text: str, run_code: bool = True) -> Verdict:
    """Judge `text` as an answer. run_code: whether a function in it may be run, in the sandbox.

    Raises SettingError for an unknown rule or domain.
    """
    rule = problem.rule or problem.domain
    if rule in plain_rules.RULES:
        return Verdict(*plain_rules.RULES[rule](problem.answer, text))
    if rule == "math":
        return _math(problem.facts["result"], text)
    if rule == "code":
        if not run_code:
            return Verdict(None, "The code was not run.")
        return _code(problem.facts["name"], problem.facts["examples"], text)
    if rule == "knowledge":
        return _knowledge(problem, text)
    if rule == "story":
        return _story(problem.facts["must"], text)
    if problem.rule:
        raise SettingError(
            f"There is no rule {brief(problem.rule)}; the rules are {', '.join((*plain_rules.RULES, *DOMAINS))}."
        )
    raise SettingError(f"There are no tasks of domain {brief(problem.domain)}; the domains are {', '.join(DOMAINS)}.")


def _math(result: int, text: str) -> Verdict:
    """Right if the last number after "answer is" is the result; without these words, the last number of the text."""
    stated = re.findall(rf"answer is\s*({_NUMBER})", text, re.IGNORECASE) or re.findall(_NUMBER, text)
    if not stated:
        return Verdict(False, f"It gives no number; the answer is {result}.")
    number = float(stated[-1].replace(",", ""))
    if number == result:
        return Verdict(True, f"It gives {result}.")
    return Verdict(False, f"It gives {brief_text(stated[-1])}; the answer is {result}.")


def _code(name: str, examples: list[list[Any]], text: str) -> Verdict:
    """Right if the function returns the expected value of every example, with the same type."""
    try:
        outcomes = sandbox.run(code_of(text), name, [arguments for arguments, _ in examples])
    except sandbox.SandboxUnavailable as error:
        return Verdict(None, f"Not judged: {error}.")
    except sandbox.CodeRefused as error:
        return Verdict(False, f"{error}.")
    except sandbox.SandboxError as error:
        return Verdict(False, f"The code {error}.")
    for (arguments, expected), outcome in zip(examples, outcomes, strict=True):
        given = ", ".join(map(brief, arguments))
        if outcome.problem:
            return Verdict(False, f"wrong for {given}: {outcome.problem}, expected {brief(expected)}.")
        if not same(outcome.value, expected):
            return Verdict(False, f"wrong for {given}: gave {brief(outcome.value)}, expected {brief(expected)}.")
    return Verdict(True, f"It passes {len(examples)} examples.")


def code_of(text: str) -> str:
    """The code in an answer: the content of its first fence, or the text from its first `def`."""
    fenced = _FENCE.search(text)
    if fenced:
        return fenced[1]
    start = re.search(r"^def ", text, re.MULTILINE)
    return text[start.start() :] if start else text


def same(one: Any, other: Any) -> bool:
    """Whether two values and their types are equal, also inside lists and dicts: True is not 1, and 1.0 is not 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def _knowledge(problem: Problem, text: str) -> Verdict:
    """Right if the text names the answer and no other value of the same kind. Values in the question are allowed."""
    answer, others = problem.facts["answer"], problem.facts["others"]
    exact_case = len(answer) <= 2  # symbols of elements: in lower case they can be words, such as "he"
    wrong = [
        other
        for other in others
        if says(text, other, exact_case or len(other) <= 2) and not says(problem.asked, other, exact_case)
    ]
    if wrong:
        return Verdict(False, f"It says {brief(wrong[0])}; the answer is {brief(answer)}.")
    if not says(text, answer, exact_case):
        return Verdict(False, f"It does not say {brief(answer)}.")
    return Verdict(True, f"It says {brief(answer)}.")


def _story(must: list[str], text: str) -> Verdict:
    """Right if the text names everything in `must` and has at least three sentences, the last of them complete."""
    missing = next((words for words in must if not says(text, words)), None)
    if missing is not None:
        return Verdict(False, f"It does not say {brief(missing)}.")
    if not re.search(r"[.!?][\"')]*\s*\Z", text):
        return Verdict(False, "Its last sentence does not end.")
    sentences = len(re.findall(r"[.!?]+(?=[\"')]*(?:\s|\Z))", text))
    if sentences < _MIN_SENTENCES:
        return Verdict(False, f"It has {sentences} sentences; a story has at least {_MIN_SENTENCES}.")
    return Verdict(True, f"It names all {len(must)} and has {sentences} sentences.")
