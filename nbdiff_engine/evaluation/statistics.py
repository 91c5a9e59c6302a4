"""The uncertainty of accuracies: of one decoder, and of the difference of two on the same prompts."""

import math

Z_95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson_interval(right: int, n: int) -> tuple[float, float] | None:
    """A 95 % interval for the share that right / n estimates; None for n = 0.

    Wilson's score interval (Journal of the American Statistical Association 22, 1927): the shares that a score test
    does not reject given `right`. It stays within 0 and 1, and has a width above zero even if all are right or none.
    """
    if n == 0:
        return None
    share, z2 = right / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # If none or all are right, one bound equals the estimate exactly; the formula gives it only up to rounding.
    return (0.0 if right == 0 else middle - reach), (1.0 if right == n else middle + reach)


# -- two decoders on the same prompts -------------------------------------------------------------------
#
# b is the number of prompts that only the first answered correctly, c of those that only the second did. Prompts that
# both or neither answered correctly give no information about the difference, but they count in n.


def mcnemar_p(b: int, c: int) -> float:
    """The exact two-sided p of McNemar's test: if both are equally good, b is binomial over b + c with p = 1/2."""
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
