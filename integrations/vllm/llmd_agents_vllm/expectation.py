"""When the context of a step is needed next, by what its own hints say: for host tier and device alike."""

import math
from collections.abc import Mapping
from typing import Final

from llmd_agents.hints import Estimate, Forecast, Next

EXPECTED: Final[Mapping[Next, tuple[float, float]]] = {
    Next.TOOL: (8.0, 1.3),
    Next.HUMAN: (240.0, 1.3),
    Next.FORK: (1.0, 1.0),
}
"""Median (seconds) and sigma of waits whose length was not declared: tools and people as recorded coding
sessions have them; a fork's branches start at once. What waits to be joined is not extended itself."""

SIGMA: Final = 0.7
"""Of a declared length without one."""

TRUSTED_SIGMA: Final = 1.5
"""Estimates less sure than this lose weight against least-recently-used order."""

EXPIRY_SIGMAS: Final = 3.0
EXPIRY_MIN_S: Final = 60.0
"""However short a wait was to be, it may be overdue for so long."""


def expected(forecast: Forecast | None) -> tuple[float | None, float]:
    """Returns median (seconds) and sigma of the time until the branch's next step; None where not known."""
    if forecast is None or forecast.next is Next.END:
        return None, SIGMA
    if forecast.after is not None:
        return forecast.after, SIGMA if forecast.sigma is None else forecast.sigma
    return EXPECTED.get(forecast.next, (None, SIGMA))


def estimate(median: float, sigma: float, now: float) -> Estimate:
    """Returns the estimate for a step that ends now."""
    longest = median * math.exp(min(EXPIRY_SIGMAS * sigma, 20.0))
    weight = min(1.0, (TRUSTED_SIGMA / sigma) ** 2) if sigma > 0 else 1.0
    return Estimate(now, median, sigma, now + max(longest, EXPIRY_MIN_S), weight)
