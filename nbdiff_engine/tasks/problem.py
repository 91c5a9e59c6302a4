"""Problem: what is asked, what a good answer looks like, and what a checker needs to judge another answer."""

from dataclasses import dataclass, field
from typing import Any

DOMAINS = ("math", "code", "knowledge", "story")


@dataclass(frozen=True, slots=True)
class Problem:
    """One task with its reference answer. `facts` holds JSON values only, which differ from rule to rule.

    math: result. code: name, examples as [arguments, expected] pairs. knowledge: answer, others (the values that
    would be wrong, apart from those that the question or the steps to the answer name). story: must.

    prompt: text, or a conversation of role and content. rule: what judges an answer; "" is the rule of the domain.
    id: what the problem's author calls it.
    """

    domain: str
    prompt: str | list[dict[str, str]]
    answer: str
    facts: dict[str, Any] = field(default_factory=dict)
    rule: str = ""
    id: str = ""

    @property
    def asked(self) -> str:
        """All text of the prompt."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(turn["content"] for turn in self.prompt)
