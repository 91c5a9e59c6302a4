"""Problem: a prompt, its reference answer, and the facts that a checker needs to judge another answer."""

from dataclasses import dataclass, field
from typing import Any

DOMAINS = ("math", "code", "knowledge", "story")


@dataclass(frozen=True, slots=True)
class Problem:
    """One task with its reference answer. `facts` contains only JSON values; each rule has its own facts.

    Facts of math: result. Of code: name, and examples as [arguments, expected] pairs. Of knowledge: answer, and others
    (values that would be wrong, except those in the question or in the steps to the answer). Of story: must.

    prompt: text, or a conversation as a list of role and content. rule: the name of the rule that judges an answer;
    "" is the rule of the domain. id: the name of the problem in its file.
    """

    domain: str
    prompt: str | list[dict[str, str]]
    answer: str
    facts: dict[str, Any] = field(default_factory=dict)
    rule: str = ""
    id: str = ""

    @property
    def asked(self) -> str:
        """The text of the prompt; the turns of a conversation are joined by line ends."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(turn["content"] for turn in self.prompt)
