"""Problems of a user's own: a .jsonl of prompts and answers, checked line by line.

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

MOST_BYTES = 64 * 2**20  # of a file
MOST_LINE_BYTES = 2**20
NO_DOMAIN = "problems"  # of lines that name none
CHECKS = (*RULES, *DOMAINS)

_RESERVED = "all"  # what the tables call the figures over every domain


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


def read_problems(path: Path) -> list[Problem]:
    """The problems of a .jsonl file, in its order; empty lines count as nothing.

    Raises NBDiffError, one sentence with the file, the line and what is wrong with it.
    """
    try:
        if not path.is_file():
            reason = "that is a folder" if path.is_dir() else "there is no such file"
            raise NBDiffError(f"The problems cannot be read from {path}: {reason}.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, NBDiffError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise NBDiffError(f"The problems cannot be read from {path}: {reason}.") from error
    if len(data) > MOST_BYTES:
        raise NBDiffError(f"The problems in {path} are more than {MOST_BYTES // 2**20} MiB; split the file.")
    problems: list[Problem] = []
    ids: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            problem = _problem(line)
            if problem.id in ids:
                raise ValueError(f"the id {brief(problem.id)} stands in line {ids[problem.id]} already")
        except ValueError as error:
            raise NBDiffError(f"{path}, line {number}: {str(error).rstrip('.')}.") from error
        if problem.id:
            ids[problem.id] = number
        problems.append(problem)
    if not problems:
        raise NBDiffError(f"{path} holds no problem; write one JSON object a line, with a prompt and an answer.")
    return problems


def _problem(line: bytes) -> Problem:
    """One line as a problem. Raises ValueError with what is wrong."""
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"it is longer than {MOST_LINE_BYTES // 2**10} KiB; shorten the prompt")
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
        raise ValueError("it holds half of a surrogate pair, which is no valid text")
    if not given.domain.isprintable() or given.domain.strip() != given.domain or given.domain == _RESERVED:
        raise ValueError(
            f"domain is {brief(given.domain)}; a domain is a word or two on one line, and not {_RESERVED!r}"
        )
    rule = _default_rule(problem) if given.check is None else given.check
    if rule not in CHECKS:
        raise ValueError(f"check is {brief(rule)}; choose one of {', '.join(CHECKS)}")
    facts = _facts(rule, problem)
    return Problem(problem.domain, prompt, problem.answer, facts, rule, str(given.id))


def _json(line: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(line.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} of it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _first_problem(error: ValidationError, fields: dict[str, Any]) -> str:
    """As `errors.first_problem`, without the names that pydantic gives to the sides of a union."""
    problem = error.errors(include_url=False)[0]
    field = str(problem["loc"][0])
    if problem["type"] in ("missing", "extra_forbidden") and len(problem["loc"]) == 1:
        return first_problem(error)
    expected = {
        "prompt": "text, or a list of turns with a role and content, both text",
        "answer": "text or a number",
        "domain": "text of 1 to 40 characters",
        "id": "text of at most 200 characters, or a whole number",
        "check": f"one of {', '.join(CHECKS)}",
        "facts": "an object with what the check needs",
    }[field]
    return f"{field} is {brief(fields[field])}; it must be {expected}"


def _default_rule(problem: Problem) -> str:
    """A bundled domain with facts has its own rule; else a number is looked for as a number, text as text."""
    if problem.facts and problem.domain in DOMAINS:
        return problem.domain
    return "number" if is_number(problem.answer) else "contains"


def _facts(rule: str, problem: Problem) -> dict[str, Any]:
    """What the rule needs beside the answer, which gives it where it can. Raises ValueError."""
    facts, answer = problem.facts, problem.answer
    if rule in RULES:
        if not answer.strip():
            raise ValueError(f"check {rule} needs an answer")
        if rule == "number" and last_number(answer) is None:
            raise ValueError(f"answer is {brief(answer)}, which has no number for check number")
        if facts:
            raise ValueError(f"check {rule} takes no facts; they belong to {', '.join(DOMAINS)}")
        return {}
    if rule == "math":
        number = last_number(answer)
        if number is None and "result" not in facts:
            raise ValueError("check math needs an answer with a number, or facts.result")
        result = facts.get("result", None if number is None else float(number))
        _need(type(result) in (int, float), "math", "result, a number")
        return {"result": result}
    if rule == "knowledge":
        words, others = facts.get("answer", answer), facts.get("others", [])
        _need(_words([words]) and _words(others), "knowledge", "answer and others, text and a list of it")
        return {"answer": words, "others": others}
    if rule == "story":
        _need(_words(facts.get("must")) and bool(facts["must"]), "story", "must, a list of what it has to name")
        return {"must": facts["must"]}
    name, examples = facts.get("name"), facts.get("examples")
    pairs = isinstance(examples, list) and all(
        isinstance(each, list) and len(each) == 2 and isinstance(each[0], list) for each in examples
    )
    _need(
        isinstance(name, str) and name.isidentifier() and pairs and bool(examples),
        "code",
        "name, of the function, and examples, a list of [[arguments], expected]",
    )
    return {"name": name, "examples": examples}


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)


def _need(fits: bool, rule: str, what: str) -> None:
    if not fits:
        raise ValueError(f"check {rule} needs facts with {what}")
