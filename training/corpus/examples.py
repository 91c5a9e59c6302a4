"""The project's own instruction data: four domains, written as they are read, each with answers that can be checked.

The answer is a function of the prompt, wording included, so that a small model can learn it and decode several of
its tokens at once. Training may add "sums", bare sums alone: the arithmetic of math without the telling. A problem
of the test split cannot occur in the train split: see `draft.Draft`.
"""

from random import Random

from nbdiff_engine.errors import brief
from nbdiff_engine.tasks import Problem
from training.corpus import code, knowledge, math, story
from training.corpus.draft import SPLITS
from training.errors import DataError

_DRAW = {
    "math": math.draw,
    "code": code.draw,
    "knowledge": knowledge.draw,
    "story": story.draw,
    "sums": math.draw_sum,
}
PARTS = tuple(_DRAW)


def example(domain: str, split: str, index: int, seed: int = 0) -> Problem:
    """Problem `index` of a domain's split: always the same for the same arguments, and there is one for any index."""
    if domain not in _DRAW:
        raise DataError(f"The corpus has no domain {brief(domain)}; it has {', '.join(PARTS)}.")
    if split not in SPLITS:
        raise DataError(f"The corpus has no split {brief(split)}; it has {' and '.join(SPLITS)}.")
    rng = Random(f"{seed}/{domain}/{split}/{index}")
    draw = _DRAW[domain]
    while True:
        draft = draw(rng)
        if draft.split == split:
            return draft.problem
