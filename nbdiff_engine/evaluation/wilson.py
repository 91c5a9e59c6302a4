"""How sure an accuracy is that was measured on n problems."""

import math

Z_95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson_interval(right: int, n: int) -> tuple[float, float] | None:
    """A 95 % interval for the share of which right / n is the estimate; None for n = 0.

    Wilson's score interval (Journal of the American Statistical Association 22, 1927): the shares under which
    `right` would be no surprise. It stays within 0 and 1, and keeps a width where all are right or none is.
    """
    if n == 0:
        return None
    share, z2 = right / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends one bound is the estimate itself, but for rounding.
    return (0.0 if right == 0 else middle - reach), (1.0 if right == n else middle + reach)
