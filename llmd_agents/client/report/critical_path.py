"""The critical path: what the program's duration consisted of.

From the end backwards: what ended last, then whatever that had waited for longest, and so on. What lies
between two of them is the application's own code. The method is CRISP's (Zhang et al., USENIX ATC 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..history import StepRecord
from .model import PathPart

if TYPE_CHECKING:
    from .graph import Graph

_NOTHING = 1e-9


def critical_path(graph: Graph) -> tuple[PathPart, ...]:
    """Returns parts that follow one another without gaps from 0 to the program's end."""
    parts: list[PathPart] = []
    at = graph.now
    activity = graph.last()
    seen: set[int] = set()
    while activity is not None and id(activity) not in seen and at > 0:
        seen.add(id(activity))
        ended, started = min(graph.ended(activity), at), max(min(activity.started, at), 0.0)
        if at - ended > _NOTHING:
            parts.append(PathPart("own", None, ended, at))
        if isinstance(activity, StepRecord):
            parts.append(PathPart("model", activity.step, started, ended))
        else:
            parts.append(PathPart("tool", activity.call, started, ended))
        at = started
        activity = graph.before(activity)
    if at > _NOTHING:
        parts.append(PathPart("own", None, 0.0, at))
    return tuple(reversed(parts))
