"""What is known of a tool, as its server tells it in `_meta["llmd-agents/hints"]`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from llmd_agents.client import META_KEY

EXPECTED_MAX_S: Final = 86_400.0
"""Longer durations are not believed."""

LIFETIME_MAX_S: Final = 30 * 86_400.0
SIGMA_MAX: Final = 10.0

STEPS: Final = "steps"
"""The member of a result's hints that says whether the tool made steps of the caller's program."""


class ToolHints(NamedTuple):
    """What is known of a tool's calls; None is what is not.

    Attributes:
        expected: median duration in seconds, up to a day.
        sigma: standard deviation of ln(seconds), up to 10.
        result_lifetime: how long a result holds, in seconds, up to 30 days.
        cacheable: whether the same arguments give the same result meanwhile.
    """

    expected: float | None = None
    sigma: float | None = None
    result_lifetime: float | None = None
    cacheable: bool | None = None

    def written(self) -> dict[str, object]:
        """Returns the members of `_meta["llmd-agents/hints"]` that say so."""
        members = {
            "expected_duration_ms": _milliseconds(self.expected),
            "sigma": self.sigma,
            "result_ttl_ms": _milliseconds(self.result_lifetime),
            "cacheable": self.cacheable,
        }
        return {name: value for name, value in members.items() if value is not None}


NOTHING: Final = ToolHints()


def read_hints(meta: object) -> ToolHints:
    """Reads what a peer says in a `_meta`; what makes no sense counts as not said."""
    said = _said(meta)
    if said is None:
        return NOTHING
    expected = _number(said.get("expected_duration_ms"), EXPECTED_MAX_S * 1000)
    lifetime = _number(said.get("result_ttl_ms"), LIFETIME_MAX_S * 1000)
    cacheable = said.get("cacheable")
    return ToolHints(
        None if expected is None else expected / 1000,
        None if expected is None else _number(said.get("sigma"), SIGMA_MAX),
        None if lifetime is None else lifetime / 1000,
        cacheable if isinstance(cacheable, bool) else None,
    )


def steps_made(meta: object) -> bool | None:
    """Returns whether the tool made steps of the caller's program, if the result's `_meta` says so."""
    said = _said(meta)
    steps = said.get(STEPS) if said is not None else None
    return steps if isinstance(steps, bool) else None


def _said(meta: object) -> dict[str, Any] | None:
    said = meta.get(META_KEY) if isinstance(meta, dict) else None
    return said if isinstance(said, dict) else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _number(value: object, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= most else None  # nor is NaN
