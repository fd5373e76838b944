"""What came of one program under one arm of the demonstration."""

from collections.abc import Mapping
from dataclasses import dataclass

from .counters import Counters


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Token counts are the engines' own, over all engines, with what was brought ahead of its use.

    Attributes:
        completion_s: until the last of the program's runs was done.
        computed_again: prompt tokens of its calls, as the client saw them, that were computed though an
            earlier of these calls had had them computed.
        directives: that were sent, by type and what became of them.
    """

    completion_s: float
    counters: Counters
    computed_again: int
    directives: Mapping[str, Mapping[str, int]]

    @property
    def computed(self) -> int:
        """Prompt tokens that came from no cache."""
        return self.counters.prompt_tokens - self.counters.cached

    def applied(self, kind: str) -> int:
        counts = self.directives.get(kind, {})
        return counts.get("applied", 0) + counts.get("clipped", 0)

    @property
    def all_applied(self) -> int:
        return sum(self.applied(kind) for kind in self.directives)
