"""Problem: what is asked, what a good answer looks like, and what a checker needs to judge another answer."""

from dataclasses import dataclass, field
from typing import Any

DOMAINS = ("math", "code", "knowledge", "story")


@dataclass(frozen=True, slots=True)
class Problem:
    """One task with its reference answer. `facts` holds JSON values only, which differ from domain to domain.

    math: result. code: name, examples as [arguments, expected] pairs. knowledge: answer, others (the values that
    would be wrong, apart from those that the question or the steps to the answer name). story: must.
    """

    domain: str
    prompt: str
    answer: str
    facts: dict[str, Any] = field(default_factory=dict)
