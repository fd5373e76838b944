"""What an engine's `/metrics` say of its load, under vLLM's names.

Only the lines that matter are looked at: a parser of the whole text would hold the router up for some 10 ms
each time.
"""

import math
import re
from collections import defaultdict
from typing import Final, NamedTuple

METRICS_MAX_BYTES: Final = 4 << 20
COUNT_MAX: Final = 1_000_000

_RUNNING: Final = b"num_requests_running"
_WAITING: Final = b"num_requests_waiting"
_USAGE: Final = b"kv_cache_usage_perc"

# Labels may hold any character in quotes, line ends escaped; so the last brace of a line ends them.
_SAMPLE: Final = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)"
    rb"(?:\{[^\n]*\})?[ \t]+([^ \t\r\n]+)",
    re.MULTILINE,
)


class LoadReading(NamedTuple):
    """Requests under way, with a place in the batch and without; share of blocks held, None if not told."""

    running: int
    waiting: int
    cache_usage: float | None


def read_load(text: bytes) -> LoadReading | None:
    """Returns the load in a text of Prometheus' format; None if it does not tell.

    An engine of several replicas has a line for each: requests are added up, the share is their mean.
    """
    values: dict[bytes, list[float]] = defaultdict(list)
    for name, number in _SAMPLE.findall(text):
        try:
            value = float(number)
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            values[name].append(value)
    if not (values[_RUNNING] and values[_WAITING]):
        return None
    shares = values[_USAGE]
    return LoadReading(
        running=int(min(sum(values[_RUNNING]), COUNT_MAX)),
        waiting=int(min(sum(values[_WAITING]), COUNT_MAX)),
        cache_usage=min(sum(shares) / len(shares), 1.0) if shares else None,
    )
