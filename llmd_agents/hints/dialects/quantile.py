"""From a duration's median and spread to one number, for stacks that take only one."""

import math
from statistics import NormalDist

from ..limits import SECONDS_MAX

SIGMA_UNKNOWN = 1.0
"""Spread of a duration whose own is not declared: two thirds lie between 0.37 and 2.7 times the median."""

_NORMAL = NormalDist()


def soon_sure(median_s: float, sigma: float | None, share: float) -> float:
    """Returns within how many seconds a share of log-normal durations end; at most `SECONDS_MAX`."""
    spread = SIGMA_UNKNOWN if sigma is None else sigma
    return min(median_s * math.exp(spread * _NORMAL.inv_cdf(share)), float(SECONDS_MAX))
