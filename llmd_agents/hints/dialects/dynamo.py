"""NVIDIA Dynamo: `nvext.agent_hints`, and identity headers.

Dynamo refuses members of `nvext` that it does not know, so nothing else is put there. Its releases have
called one chain of context a trajectory and a session; both names are sent, with the same ids.
"""

from collections.abc import Mapping
from typing import Any, Final

from ..defaults import DEFAULT_PRIORITY
from ..models import Hints, Next
from .dialect import Dialect, Surroundings, beside
from .session import session_id

_OSL_MAX: Final = 2**32 - 1
_GOES_ON: Final = frozenset((Next.TOOL, Next.HUMAN, Next.FORK))


def _headers(hints: Hints, around: Surroundings) -> dict[str, str]:
    ends = hints.forecast is not None and hints.forecast.next is Next.END
    headers: dict[str, str] = {}
    for kind in ("trajectory", "session"):
        headers[f"x-dynamo-{kind}-id"] = session_id(hints)
        if around.parent_branch is not None:
            headers[f"x-dynamo-parent-{kind}-id"] = session_id(hints, around.parent_branch)
        if ends:
            headers[f"x-dynamo-{kind}-final"] = "true"
    return headers


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    # There, too, higher matters more, but a call that says nothing counts as 0.
    if hints.program.priority != DEFAULT_PRIORITY:
        ours["priority"] = hints.program.priority - DEFAULT_PRIORITY
    if hints.forecast is not None:
        if hints.forecast.output_tokens is not None:
            ours["osl"] = min(hints.forecast.output_tokens, _OSL_MAX)
        if hints.forecast.next in _GOES_ON:
            ours["speculative_prefill"] = True
    nvext = body.get("nvext")
    if not ours or (nvext is not None and not isinstance(nvext, Mapping)):
        return {}
    theirs: Mapping[str, Any] = nvext or {}
    merged = beside(theirs, "agent_hints", ours)
    return {"nvext": {**theirs, **merged}} if merged else {}


DYNAMO = Dialect(
    name="dynamo",
    stack="NVIDIA Dynamo",
    receives=(
        ("`x-dynamo-trajectory-id`, `x-dynamo-session-id`", "program and branch"),
        (
            "`x-dynamo-parent-trajectory-id`, `x-dynamo-parent-session-id`",
            "the branch that this one was forked from",
        ),
        ("`x-dynamo-trajectory-final`, `x-dynamo-session-final`", "`true` with a forecast of the end"),
        (
            "`nvext.agent_hints.priority`",
            "the program's − 50: higher matters more, 0 is no hint",
        ),
        ("`nvext.agent_hints.osl`", "expected output tokens"),
        ("`nvext.agent_hints.speculative_prefill`", "`true` where the same conversation goes on"),
    ),
    loses="parents, join, loop, segments, times of forecasts, deadline; `strict_priority` is never sent, as "
    "one point of it starves whoever has less",
    headers=_headers,
    fields=_fields,
)
