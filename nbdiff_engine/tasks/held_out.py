"""The 400 problems that the project measures itself on. No training run of its own corpus has seen any of them."""

import json

from nbdiff_engine.bundled_files import ASSETS
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.tasks.problem import DOMAINS, Problem

HELD_OUT_FILE = ASSETS / "tasks" / "held_out.jsonl"


def held_out(domain: str | None = None, limit: int | None = None) -> list[Problem]:
    """The held-out problems of a domain, or of all; the first `limit` of each domain if that is given."""
    if domain is not None and domain not in DOMAINS:
        raise SettingError(f"There are no tasks of domain {brief(domain)}; there are {', '.join(DOMAINS)}.")
    if limit is not None and limit < 1:
        raise SettingError(f"{brief(limit)} problems cannot be had; the limit is at least 1.")
    lines = HELD_OUT_FILE.read_text(encoding="utf-8").splitlines()
    problems = [Problem(**json.loads(line)) for line in lines]
    return [
        problem
        for wanted in ([domain] if domain else DOMAINS)
        for problem in [each for each in problems if each.domain == wanted][:limit]
    ]
