"""The 400 problems and 200 chat prompts of this project's evaluations; its training splits contain none of them."""

import json

from nbdiff_engine.bundled_files import ASSETS
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.tasks.problem import DOMAINS, Problem

HELD_OUT_FILE = ASSETS / "tasks" / "held_out.jsonl"
CHAT_FILE = ASSETS / "tasks" / "chat_prompts.jsonl"


def held_out(domain: str | None = None, limit: int | None = None) -> list[Problem]:
    """The held-out problems of a domain, or of all domains. limit: only the first `limit` problems of each domain.

    Raises SettingError for an unknown domain or a limit below 1.
    """
    if domain is not None and domain not in DOMAINS:
        raise SettingError(f"There are no tasks of domain {brief(domain)}; the domains are {', '.join(DOMAINS)}.")
    if limit is not None and limit < 1:
        raise SettingError(f"limit is {brief(limit)}; it must be at least 1.")
    lines = HELD_OUT_FILE.read_text(encoding="utf-8").splitlines()
    problems = [Problem(**json.loads(line)) for line in lines]
    return [
        problem
        for wanted in ([domain] if domain else DOMAINS)
        for problem in [each for each in problems if each.domain == wanted][:limit]
    ]


def held_out_prompts() -> list[tuple[str, str]]:
    """Kind (chat, knowledge, maths, code, summary) and text of the prompts for chat models. They have no answers: a
    draft adapter is measured on what its own base answers."""
    rows = [json.loads(line) for line in CHAT_FILE.read_text(encoding="utf-8").splitlines()]
    return [(row["kind"], row["prompt"]) for row in rows]
