"""How sessions and programs are replayed, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .counters import EngineCounters

DEFAULT_MAX_GAP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How recordings are replayed.

    Attributes:
        speed: gaps between calls are divided by it.
        hints: whether the client declares programs, branches and tools.
        max_gap_s: longer gaps (a night's sleep) are cut to this, before division.
    """

    speed: float = 1.0
    hints: bool = True
    max_gap_s: float = DEFAULT_MAX_GAP_SECONDS


@dataclass(slots=True)
class ReplayReport:
    """What came of a replay. Token counts at this level are the client's own."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    edges: int = 0
    branches: int = 0
    engines: list[EngineCounters] = field(default_factory=list)
    first_error: str | None = None

    def disagreement(self) -> str | None:
        """Returns how the engines' counters differ from the client's, if they do."""
        for name in ("prompt_tokens", "cached_tokens"):
            theirs = sum(getattr(engine, name) for engine in self.engines)
            if theirs != (mine := getattr(self, name)):
                return f"the engines count {theirs:,} {name}, the client {mine:,}"
        return None
