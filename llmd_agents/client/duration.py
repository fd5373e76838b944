"""Durations as people write them."""

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)\s*", re.ASCII)


def seconds(value: float | str | timedelta) -> float:
    """Returns a duration in seconds: `5`, `"200ms"`, `"5s"`, `"2m"`, `"1.5h"` or a timedelta.

    Raises:
        ValueError: if the text has another form, or the duration is negative.
    """
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        match = _FORM.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a duration such as '200ms', '5s' or '2m'")
        result = float(match[1]) * _UNITS[match[2]]
    else:
        result = float(value)
    if not 0 <= result < float("inf"):
        raise ValueError(f"a duration must be positive and finite, not {value!r}")
    return result
