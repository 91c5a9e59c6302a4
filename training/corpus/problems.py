"""Problems of the corpus by number: the same arguments always give the same problem.

The answer is a function of the prompt, including its wording, so that a small model can learn it and decode several
tokens at once. Training may add the part "sums": the arithmetic of math without a story. A problem of the test split
cannot be in the train split: see `keyed_problem.KeyedProblem`.
"""

from random import Random

from nbdiff_engine.errors import brief
from nbdiff_engine.tasks import DOMAINS, Problem
from training.corpus import code, knowledge, math, story
from training.corpus.keyed_problem import SPLITS
from training.errors import DataError

__all__ = ["DOMAINS", "PARTS", "SPLITS", "example"]

_DRAW = {
    "math": math.draw,
    "code": code.draw,
    "knowledge": knowledge.draw,
    "story": story.draw,
    "sums": math.draw_sum,
}
PARTS = tuple(_DRAW)


def example(domain: str, split: str, index: int, seed: int = 0) -> Problem:
    """Problem `index` of a split of a domain. Every index has a problem.

    Raises DataError for an unknown domain or split.
    """
    if domain not in _DRAW:
        raise DataError(f"The corpus has no domain {brief(domain)}; it has {', '.join(PARTS)}.")
    if split not in SPLITS:
        raise DataError(f"The corpus has no split {brief(split)}; it has {' and '.join(SPLITS)}.")
    rng = Random(f"{seed}/{domain}/{split}/{index}")
    draw = _DRAW[domain]
    while True:
        keyed = draw(rng)
        if keyed.split == split:
            return keyed.problem
