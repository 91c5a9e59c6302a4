"""Two decoders on the same prompts: is one right more often, and how sure is that.

b counts the prompts that only the first got right, c those that only the second did. Prompts that both or
neither got right say nothing about the difference, but they do count in n.
"""

import math

from nbdiff_engine.evaluation.wilson import Z_95


def mcnemar_p(b: int, c: int) -> float:
    """The exact two-sided p of McNemar's test: were both equally good, b of b + c would be coin tosses."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2**n)  # integers up to here: exact for any n


def difference_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """A 95 % interval for the difference of two paired proportions, whose estimate is (b - c) / n.

    The interval "Wald+2" of Agresti and Min, Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24 (2005): half an observation is added to each of the four cells,
    so that b = c = 0 gives no interval of width zero. Cut at -1 and 1.
    """
    total = n + 2
    middle = (b - c) / total
    reach = Z_95 * math.sqrt(b + c + 1 - (b - c) ** 2 / total) / total
    return max(-1.0, middle - reach), min(1.0, middle + reach)
