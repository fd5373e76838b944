"""What the engine's work costs, as seen from how long its steps take."""

from typing import Final

from llmd_agents.hints import EngineRates

MEMORY: Final = 0.05
"""Weight of the latest step."""

LONGEST_STEP_S: Final = 5.0
"""What takes longer has been waiting, not computing."""

HICCUP: Final = 4.0
"""A step that takes more than so many times what was expected counts as having taken that."""

STEP_S: Final = 1e-2
SEQUENCE_S: Final = 1e-4
PREFILL_S: Final = 1e-4
"""Costs of which nothing was seen yet, to the order of magnitude."""

SHORTEST_STEP_S: Final = 1e-6

LOADING_SHARE: Final = 0.1
"""Loading a token takes this part of computing it, where the operator does not say: an assumption."""


class Rates:
    """Learns from the time between two schedules that follow each other without a pause.

    Args:
        sequences_at_once: how many sequences one step can generate for.
        host_s_per_token, storage_s_per_token: as the operator says; None where unknown.
        lower: whether there are tiers below the device.
    """

    def __init__(
        self,
        *,
        sequences_at_once: int,
        lower: bool,
        host_s_per_token: float | None,
        storage_s_per_token: float | None,
    ) -> None:
        self._at_once = sequences_at_once
        self._lower = lower
        self._host = host_s_per_token
        self._storage = storage_s_per_token
        self._prefill = PREFILL_S
        self._decode = _Line(STEP_S, SEQUENCE_S)
        self._last: tuple[float, int, int] | None = None

    def scheduled(self, now: float, prompt_tokens: int, decodes: int) -> None:
        """Notes a step that begins now.

        Args:
            prompt_tokens: that it computes.
            decodes: requests that it generates one token for.
        """
        if self._last is not None:
            then, tokens, sequences = self._last
            took = now - then
            if 0 < took < LONGEST_STEP_S:
                if tokens > sequences:
                    computing = max(took - self._decode.at(sequences), took / 2)
                    self._prefill += MEMORY * (computing / tokens - self._prefill)
                elif sequences:
                    self._decode.add(sequences, min(took, HICCUP * self._decode.at(sequences)))
        self._last = (now, prompt_tokens, decodes) if prompt_tokens or decodes else None

    def paused(self) -> None:
        """Notes that the engine has nothing to do, so that the time until the next step means nothing."""
        self._last = None

    @property
    def now(self) -> EngineRates:
        loading = self._prefill * LOADING_SHARE if self._lower else None
        return EngineRates(
            prefill_s_per_token=self._prefill,
            step_s=self._decode.at(0),
            # Those that find no place take turns: then each costs its share of a full step.
            decode_s_per_seq=max(self._decode.slope, self._decode.at(self._at_once) / self._at_once),
            # As part of what a sequence costs.
            decode_s_per_context_token=0.0,
            host_s_per_token=loading if self._host is None else self._host,
            storage_s_per_token=loading if self._storage is None else self._storage,
            peer_s_per_token=None,
        )


class _Line:
    """The straight line through points by least squares, the latest weighing most.

    Args:
        start, slope: the line while there are no points.
    """

    def __init__(self, start: float, slope: float) -> None:
        self._x = 1.0
        self._y = start + slope
        self._spread = 1.0
        self._together = slope

    def add(self, x: float, y: float) -> None:
        dx, dy = x - self._x, y - self._y
        self._x += MEMORY * dx
        self._y += MEMORY * dy
        if abs(dx) >= 0.5:
            # Batches of one size say nothing of the slope, and must not wear away what others have said.
            self._spread = (1 - MEMORY) * (self._spread + MEMORY * dx * dx)
            self._together = (1 - MEMORY) * (self._together + MEMORY * dx * dy)

    @property
    def slope(self) -> float:
        return max(self._together / self._spread, 0.0)

    def at(self, x: float) -> float:
        return max(self._y + (x - self._x) * self.slope, SHORTEST_STEP_S)
