"""Durations as people write them."""

import re
from datetime import timedelta

from llmd_agents.hints.limits import SECONDS_MAX

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*(ms|s|m|h)\s*", re.ASCII)


def seconds(value: float | str | timedelta) -> float:
    """Returns a duration in seconds: `5`, `"200ms"`, `"5s"`, `"2m"`, `"1.5h"` or a timedelta.

    Raises:
        ValueError: if the text has another form, or the duration is negative or longer than a hint may state.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        match = _FORM.fullmatch(value)
        if match is None:
            raise ValueError(f"{value[:40]!r} is not a duration such as '200ms', '5s' or '2m'")
        result = float(match[1]) * _UNITS[match[2]]
    else:
        result = float(value)
    if not 0 <= result <= SECONDS_MAX:
        raise ValueError(f"a duration must be from 0 to {SECONDS_MAX:,} seconds, not {str(value)[:40]}")
    return result
