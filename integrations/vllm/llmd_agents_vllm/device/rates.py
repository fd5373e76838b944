"""What the engine's work costs, as seen from how long its steps take."""

from typing import Final

from llmd_agents.hints import EngineRates

from .options import Options

MEMORY: Final = 0.01
"""Weight of the latest step, once there have been many: what else runs on the machine comes and goes."""

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
        stated: what the operator says that things cost; it stands in place of what is learned.
        sequences_at_once: how many sequences one step can generate for.
        lower: whether there are tiers below the device.
    """

    def __init__(self, stated: Options, *, sequences_at_once: int, lower: bool) -> None:
        self._stated = stated
        self._at_once = sequences_at_once
        self._lower = lower
        self._prefill = PREFILL_S
        self._prefills = 0
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
                    each = max(took - self._decode.at(sequences), took / 2) / tokens
                    self._prefills += 1
                    more = min(each, HICCUP * self._prefill) - self._prefill
                    self._prefill += _weight(self._prefills) * more
                elif sequences:
                    self._decode.add(sequences, min(took, HICCUP * self._decode.at(sequences)))
        self._last = (now, prompt_tokens, decodes) if prompt_tokens or decodes else None

    def paused(self) -> None:
        """Notes that the engine has nothing to do, so that the time until the next step means nothing."""
        self._last = None

    @property
    def now(self) -> EngineRates:
        stated = self._stated
        # Those that find no place take turns: then each costs its share of a full step.
        sequence = max(self._decode.slope, self._decode.at(self._at_once) / self._at_once)
        prefill = _first(stated.prefill_s_per_token, self._prefill)
        loading = prefill * LOADING_SHARE if self._lower else None
        return EngineRates(
            prefill_s_per_token=prefill,
            step_s=_first(stated.step_s, self._decode.at(0)),
            decode_s_per_seq=_first(stated.decode_s_per_seq, sequence),
            # As part of what a sequence costs.
            decode_s_per_context_token=0.0,
            host_s_per_token=stated.host_s_per_token or loading,
            storage_s_per_token=stated.storage_s_per_token or loading,
            peer_s_per_token=None,
        )


def _first(stated: float | None, learned: float) -> float:
    return learned if stated is None else stated


def _weight(count: int) -> float:
    """Returns how much the latest of so many observations counts: at first as much as each before it."""
    return max(MEMORY, 1 / count)


class _Line:
    """The straight line through points by least squares, the latest weighing most.

    Args:
        start, slope: the line while there are no points.
    """

    def __init__(self, start: float, slope: float) -> None:
        self._points = 0
        self._x = 0.0
        self._y = start
        # As of one point, so that the slope is not that of the first two.
        self._spread = 1.0
        self._together = slope

    def add(self, x: float, y: float) -> None:
        self._points += 1
        weight = _weight(self._points)
        dx, dy = x - self._x, y - self._y
        self._x += weight * dx
        self._y += weight * dy
        if abs(dx) >= 0.5 and self._points > 1:
            # Batches of one size say nothing of the slope, and must not wear away what others have said.
            self._spread = (1 - weight) * (self._spread + weight * dx * dx)
            self._together = (1 - weight) * (self._together + weight * dx * dy)

    @property
    def slope(self) -> float:
        return max(self._together / self._spread, 0.0)

    def at(self, x: float) -> float:
        return max(self._y + (x - self._x) * self.slope, SHORTEST_STEP_S)
