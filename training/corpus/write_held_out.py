"""Writes the committed held-out problems and chat prompts: python -m training.corpus.write_held_out"""

import json
from itertools import count
from pathlib import Path

from nbdiff_engine.tasks.held_out import CHAT_FILE, HELD_OUT_FILE
from nbdiff_engine.tasks.problem import DOMAINS, Problem
from training.corpus.chat_prompts import KINDS, chat_prompt
from training.corpus.problems import example

PER_DOMAIN = 100
PER_KIND = 40
FIELDS = ("domain", "prompt", "answer", "facts")  # without the rule, which is that of the domain


def held_out_problems(per_domain: int = PER_DOMAIN) -> list[Problem]:
    """The first problems of each domain's test split with seed 0, without problems whose prompt occurred before."""
    problems: dict[str, Problem] = {}
    for number, domain in enumerate(DOMAINS, start=1):
        for index in count():
            if len(problems) == number * per_domain:
                break
            problem = example(domain, "test", index)
            problems.setdefault(problem.prompt, problem)
    return list(problems.values())


def write_held_out(path: Path = HELD_OUT_FILE) -> None:
    """Write the held-out problems to `path`, one JSON object per line."""
    lines = [
        json.dumps({name: getattr(problem, name) for name in FIELDS}, ensure_ascii=False)
        for problem in held_out_problems()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def held_out_chat_prompts(per_kind: int = PER_KIND) -> list[tuple[str, str]]:
    """Kind and prompt of the first chat prompts of each kind's test split with seed 0, without repetitions."""
    prompts: dict[str, str] = {}
    for number, kind in enumerate(KINDS, start=1):
        for index in count():
            if len(prompts) == number * per_kind:
                break
            prompts.setdefault(chat_prompt(kind, "test", index), kind)
    return [(kind, prompt) for prompt, kind in prompts.items()]


def write_chat_prompts(path: Path = CHAT_FILE) -> None:
    """Write the held-out chat prompts to `path`, one JSON object per line."""
    lines = [json.dumps({"kind": kind, "prompt": prompt}) for kind, prompt in held_out_chat_prompts()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_held_out()
    print(f"{HELD_OUT_FILE}: {PER_DOMAIN} problems of each of {', '.join(DOMAINS)}")
    write_chat_prompts()
    print(f"{CHAT_FILE}: {PER_KIND} prompts of each of {', '.join(KINDS)}")
