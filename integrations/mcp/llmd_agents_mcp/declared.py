"""What a server's developer declares of its tools, and what it tells of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

from llmd_agents.client import META_KEY, expected_duration

from .tool_hints import NOTHING, ToolHints, read_hints

F = TypeVar("F", bound=Callable[..., Any])

TOOLS_MAX: Final = 4096
"""Of more tools, what was declared first is forgotten."""

_declared: OrderedDict[str, ToolHints] = OrderedDict()


def tool_hints(
    *,
    expected: float | timedelta | None = None,
    sigma: float | None = None,
    result_lifetime: float | timedelta | None = None,
    cacheable: bool | None = None,
    name: str | None = None,
) -> Callable[[F], F]:
    """Declares what clients are told of a tool; the function itself stays as it is.

        @server.tool()
        @tool_hints(expected=3, result_lifetime=60, cacheable=True)
        async def search(query: str) -> str: ...

    Args:
        expected: the typical (median) duration, in seconds, up to a day. Without: learned from its calls.
        sigma: how unsure `expected` is: the standard deviation of ln(seconds), from 0 to 10.
        result_lifetime: how long a result holds, in seconds, up to 30 days.
        cacheable: whether the same arguments give the same result meanwhile.
        name: of the tool; by default the function's own.

    Raises:
        ValueError: if an argument has no meaning.
    """
    declared = ToolHints(_seconds(expected), sigma, _seconds(result_lifetime), cacheable)
    if read_hints({META_KEY: declared.written()}).written().keys() != declared.written().keys():
        raise ValueError(
            "expected is up to a day, sigma from 0 to 10 and only beside expected, result_lifetime up to "
            f"30 days, not {declared}"
        )

    def decorate(function: F) -> F:
        _declared[name or function.__name__] = declared
        if len(_declared) > TOOLS_MAX:
            _declared.popitem(last=False)
        return function

    return decorate


def known_hints(tool: str) -> ToolHints:
    """Returns what is declared of a tool, and what was learned where nothing is."""
    declared = _declared.get(tool, NOTHING)
    learned = expected_duration(tool) if declared.expected is None else None
    if learned is None:
        return declared
    return ToolHints(learned.median_s, learned.sigma, declared.result_lifetime, declared.cacheable)


def with_hints(meta: dict[str, Any] | None, tool: str) -> dict[str, Any] | None:
    """Returns a listed tool's `_meta` with what is known of it; members that are there already stay."""
    said = known_hints(tool).written()
    there = (meta or {}).get(META_KEY)
    if isinstance(there, dict):
        said |= there
    return {**(meta or {}), META_KEY: said} if said else meta


def _seconds(value: float | timedelta | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
