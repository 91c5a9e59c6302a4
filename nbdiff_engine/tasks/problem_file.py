"""Reads a user's own problems from a .jsonl file of prompts and answers; every line is checked.

{"prompt": "What is 17 + 25?", "answer": "42"}
{"prompt": [{"role": "user", "content": "Capital of Peru?"}], "answer": "Lima", "domain": "geography", "id": "g7"}
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine.errors import NBDiffError, brief, first_problem, is_text
from nbdiff_engine.tasks.plain_rules import RULES, is_number, last_number
from nbdiff_engine.tasks.problem import DOMAINS, Problem

MAX_BYTES = 64 * 2**20  # of a file
MAX_LINE_BYTES = 2**20
NO_DOMAIN = "problems"  # of lines without a domain
CHECKS = (*RULES, *DOMAINS)

_RESERVED = "all"  # in tables, the row over all domains


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: str
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | list[_Turn]
    answer: str | int | float | None = None
    domain: Annotated[str, Field(min_length=1, max_length=40)] = NO_DOMAIN
    id: Annotated[str, Field(max_length=200)] | int = ""
    check: str | None = None
    facts: dict[str, Any] = {}


def read_problems(path: Path, name: str | None = None) -> list[Problem]:
    """The problems of a .jsonl file, in the order of its lines; empty lines are skipped.

    name: of the file in errors, its path if None. Raises NBDiffError, one sentence with the file, the line and the
    mistake.
    """
    shown = str(path) if name is None else name
    try:
        if not path.is_file():
            reason = "that is a folder" if path.is_dir() else "there is no such file"
            raise NBDiffError(f"The problems cannot be read from {shown}: {reason}.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, NBDiffError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise NBDiffError(f"The problems cannot be read from {shown}: {reason}.") from error
    if len(data) > MAX_BYTES:
        raise NBDiffError(f"{shown} is larger than {MAX_BYTES // 2**20} MiB; split the file.")
    problems: list[Problem] = []
    ids: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            problem = _problem(line)
            if problem.id in ids:
                raise ValueError(f"the id {brief(problem.id)} is already used in line {ids[problem.id]}")
        except ValueError as error:
            raise NBDiffError(f"{shown}, line {number}: {str(error).rstrip('.')}.") from error
        if problem.id:
            ids[problem.id] = number
        problems.append(problem)
    if not problems:
        raise NBDiffError(f"{shown} contains no problem; write one JSON object per line, with a prompt and an answer.")
    return problems


def _problem(line: bytes) -> Problem:
    """One line as a problem. Raises ValueError with the mistake."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"it is longer than {MAX_LINE_BYTES // 2**10} KiB; shorten the prompt")
    fields = _json(line)
    if not isinstance(fields, dict):
        raise ValueError(f"it is {brief(fields)}, not a JSON object with a prompt and an answer")
    try:
        given = _Line.model_validate(fields)
    except ValidationError as error:
        raise ValueError(_first_problem(error, fields)) from error
    prompt = given.prompt
    if isinstance(prompt, list):
        prompt = [{"role": turn.role, "content": turn.content} for turn in prompt]
    problem = Problem(given.domain, prompt, "" if given.answer is None else str(given.answer), given.facts, "", "")
    if not problem.asked.strip():
        raise ValueError("the prompt is empty")
    if not all(map(is_text, (problem.asked, problem.answer, given.domain, str(given.id)))):
        raise ValueError("it contains half of a surrogate pair, which is not valid text")
    if not given.domain.isprintable() or given.domain.strip() != given.domain or given.domain == _RESERVED:
        raise ValueError(
            f"domain is {brief(given.domain)}; a domain is one line of printable text without spaces around it, "
            f"and not {_RESERVED!r}"
        )
    rule = _default_rule(problem) if given.check is None else given.check
    if rule not in CHECKS:
        raise ValueError(f"check is {brief(rule)}; choose one of {', '.join(CHECKS)}")
    facts = _facts(rule, problem)
    return Problem(problem.domain, prompt, problem.answer, facts, rule, str(given.id))


def _json(line: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(line.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} of it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _first_problem(error: ValidationError, fields: dict[str, Any]) -> str:
    """Like `errors.first_problem`, but without pydantic's names for the types of a union."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0])
    if problem["type"] in ("missing", "extra_forbidden") and len(problem["loc"]) == 1:
        return first_problem(error)
    expected = {
        "prompt": "text, or a list of turns with a role and content, both text",
        "answer": "text or a number",
        "domain": "text of 1 to 40 characters",
        "id": "text of at most 200 characters, or an integer",
        "check": f"one of {', '.join(CHECKS)}",
        "facts": "an object with the facts that the check needs",
    }[field]
    return f"{field} is {brief(fields[field])}; it must be {expected}"


def _default_rule(problem: Problem) -> str:
    """The rule of a line without a check: that of its domain if the domain is bundled and the line has facts,
    otherwise "number" if the answer is a number, otherwise "contains"."""
    if problem.facts and problem.domain in DOMAINS:
        return problem.domain
    return "number" if is_number(problem.answer) else "contains"


def _facts(rule: str, problem: Problem) -> dict[str, Any]:
    """The facts of the rule, taken from the line or derived from its answer. Raises ValueError if any is missing."""
    facts, answer = problem.facts, problem.answer
    if rule in RULES:
        if not answer.strip():
            raise ValueError(f"check {rule} needs an answer")
        if rule == "number" and last_number(answer) is None:
            raise ValueError(f"answer is {brief(answer)}, which contains no number for check number")
        if facts:
            raise ValueError(f"check {rule} takes no facts; only {', '.join(DOMAINS)} do")
        return {}
    if rule == "math":
        number = last_number(answer)
        if number is None and "result" not in facts:
            raise ValueError("check math needs an answer with a number, or facts.result")
        result = facts.get("result", None if number is None else float(number))
        _require(type(result) in (int, float), "math", "result, a number")
        return {"result": result}
    if rule == "knowledge":
        words, others = facts.get("answer", answer), facts.get("others", [])
        _require(_all_text([words]) and _all_text(others), "knowledge", "answer, a text, and others, a list of texts")
        return {"answer": words, "others": others}
    if rule == "story":
        must = facts.get("must")
        _require(_all_text(must) and bool(must), "story", "must, a list of texts that the story has to name")
        return {"must": must}
    name, examples = facts.get("name"), facts.get("examples")
    pairs = isinstance(examples, list) and all(
        isinstance(each, list) and len(each) == 2 and isinstance(each[0], list) for each in examples
    )
    _require(
        isinstance(name, str) and name.isidentifier() and pairs and bool(examples),
        "code",
        "name, the name of the function, and examples, a list of [[arguments], expected]",
    )
    return {"name": name, "examples": examples}


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)


def _require(condition: bool, rule: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"check {rule} needs facts with {expected}")
