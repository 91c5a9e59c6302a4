"""Samples of the corpus as text for a terminal."""

from textwrap import indent

from nbdiff_engine.tasks.checkers import check
from training.corpus.problems import example


def render(domain: str, split: str, count: int, seed: int = 0) -> str:
    """The first problems of a split, each with its reference answer and the checker's verdict on that answer."""
    blocks = []
    for index in range(count):
        problem = example(domain, split, index, seed)
        verdict = check(problem, problem.answer)
        blocks.append(
            f"{domain} {split} {index}\n"
            f"  prompt   {problem.prompt}\n"
            f"  answer   {indent(problem.answer, ' ' * 11).lstrip()}\n"
            f"  checker  {verdict.why}"
        )
    return "\n\n".join(blocks)
