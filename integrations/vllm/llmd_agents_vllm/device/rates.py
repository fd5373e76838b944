"""What the engine's work costs, as seen from how long its steps take."""

from typing import Final

from llmd_agents.hints import EngineRates

MEMORY: Final = 0.05
"""Weight of the latest step."""

LONGEST_STEP_S: Final = 5.0
"""What takes longer has been waiting, not computing."""

LOADING_SHARE: Final = 0.1
"""Loading a token takes this part of computing it, where the operator does not say: an assumption."""


class Rates:
    """Learns from the time between two schedules that follow each other without a pause.

    Args:
        host_s_per_token, storage_s_per_token: as the operator says; None where unknown.
        lower: whether there are tiers below the device.
    """

    def __init__(
        self, *, lower: bool, host_s_per_token: float | None, storage_s_per_token: float | None
    ) -> None:
        self._lower = lower
        self._host = host_s_per_token
        self._storage = storage_s_per_token
        self._prefill = 1e-4
        self._step = 1e-2
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
                    self._prefill += MEMORY * (max(took - self._step, took / 2) / tokens - self._prefill)
                elif sequences:
                    self._step += MEMORY * (took - self._step)
        self._last = (now, prompt_tokens, decodes) if prompt_tokens or decodes else None

    def paused(self) -> None:
        """Notes that the engine has nothing to do, so that the time until the next step means nothing."""
        self._last = None

    @property
    def now(self) -> EngineRates:
        loading = self._prefill * LOADING_SHARE if self._lower else None
        return EngineRates(
            prefill_s_per_token=self._prefill,
            step_s=self._step,
            decode_s_per_seq=0.0,
            decode_s_per_context_token=0.0,
            host_s_per_token=loading if self._host is None else self._host,
            storage_s_per_token=loading if self._storage is None else self._storage,
            peer_s_per_token=None,
        )
