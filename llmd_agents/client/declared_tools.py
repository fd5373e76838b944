"""What the application declares of its tools, found by the names that models call them by."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from llmd_agents import hints
from llmd_agents.hints.limits import NAME_MAX_CHARS

from .duration import seconds
from .durations import Expected, tool_durations

if TYPE_CHECKING:
    from llmd_agents.hints import Lifetime

TOOLS_MAX: Final = 4096
"""Of more tools those declared first are forgotten; their own calls still say what they declare."""

SIGMA_MAX: Final = 10.0

Duration: TypeAlias = float | str | timedelta


@dataclass(frozen=True, slots=True)
class DeclaredTool:
    """What is declared of one tool.

    Attributes:
        expected: median duration in seconds.
        sigma: standard deviation of ln(seconds).
        result_lifetime: how long its results matter; a number is seconds.
        told: whether somebody else says so, such as the server that it runs on.
    """

    name: str
    expected: float | None = None
    sigma: float | None = None
    result_lifetime: Lifetime | float | None = None
    told: bool = False


def declaration(
    name: str,
    expected: Duration | None,
    sigma: float | None,
    result_lifetime: Duration | None,
    *,
    told: bool = False,
) -> DeclaredTool:
    """Reads what a developer writes, or somebody else tells.

    Raises:
        ValueError: naming the argument that has no meaning.
    """
    if not 0 < len(name) <= NAME_MAX_CHARS or not name.isprintable():
        raise ValueError(f"name: 1 to {NAME_MAX_CHARS} printable characters, not {name[:40]!r}")
    if sigma is not None and not 0 <= sigma <= SIGMA_MAX:
        raise ValueError(
            f"sigma: the standard deviation of ln(seconds), from 0 to {SIGMA_MAX:g}, not {sigma}"
        )
    if sigma is not None and expected is None:
        raise ValueError("sigma: says how unsure `expected` is, which is missing")
    return DeclaredTool(
        name,
        None if expected is None else _seconds("expected", expected),
        sigma,
        None if result_lifetime is None else _lifetime(result_lifetime),
        told,
    )


def _seconds(argument: str, value: Duration) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None


def _lifetime(value: Duration) -> Lifetime | float:
    if isinstance(value, str) and value in {*hints.Lifetime}:
        return hints.Lifetime(value)
    try:
        return seconds(value)
    except ValueError as error:
        raise ValueError(
            f"result_lifetime: one of {', '.join(hints.Lifetime)}, or a duration: {error}"
        ) from None


_declared: OrderedDict[str, DeclaredTool] = OrderedDict()
_told: OrderedDict[str, DeclaredTool] = OrderedDict()
_lock = threading.Lock()


def declare(tool: DeclaredTool) -> None:
    """Makes a tool known by its name; the latest of a name counts, the application's own before others'."""
    known = _told if tool.told else _declared
    if known.get(tool.name) == tool:
        return
    with _lock:
        known[tool.name] = tool
        if len(known) > TOOLS_MAX:
            known.popitem(last=False)


def declare_tool(
    name: str,
    *,
    expected: Duration | None = None,
    sigma: float | None = None,
    result_lifetime: Duration | None = None,
    told: bool = False,
) -> None:
    """Declares a tool by its name, as `tool` does for a function: for tools that run elsewhere.

    Args:
        told: that somebody else says so, such as the server that the tool runs on. What the application
            itself declares beats it, and so does what was learned here.

    Raises:
        ValueError: naming the argument that has no meaning.
    """
    declare(declaration(name, expected, sigma, result_lifetime, told=told))


def declared_tool(name: str) -> DeclaredTool | None:
    return _declared.get(name) or _told.get(name)


@lru_cache(maxsize=TOOLS_MAX)
def undeclared_tool(name: str) -> DeclaredTool:
    """Returns a tool of which nothing is declared.

    Raises:
        ValueError: if that cannot be its name.
    """
    return declaration(name, None, None, None)


def expectation(tool: DeclaredTool) -> tuple[float | None, float | None]:
    """Returns the median in seconds and the sigma to tell of a tool's next call, as far as they are known.

    What is declared beats what was learned, and that beats what is told. A declared median without a sigma
    comes with how far the learned durations lie from it.
    """
    if tool.expected is not None and tool.sigma is not None and not tool.told:
        return tool.expected, tool.sigma
    learned = tool_durations().expect(tool.name)
    if learned is None:
        return tool.expected, tool.sigma
    if tool.expected is None or tool.told:
        return learned.median_s, learned.sigma
    return tool.expected, min(_spread_around(tool.expected, learned), SIGMA_MAX)


def _spread_around(median_s: float, learned: Expected) -> float:
    return round(math.hypot(learned.sigma, learned.off_by(median_s)), 3)


@dataclass(frozen=True, slots=True)
class DeclaredAndLearned:
    """A tool whose expected duration is declared, beside what its calls took."""

    tool: DeclaredTool
    learned: Expected


def declared_and_learned() -> list[DeclaredAndLearned]:
    """Returns all tools of which both are known."""
    with _lock:
        tools = [tool for tool in _declared.values() if tool.expected is not None]
    durations = tool_durations()
    pairs = [(tool, durations.expect(tool.name)) for tool in tools]
    return [DeclaredAndLearned(tool, learned) for tool, learned in pairs if learned is not None]
