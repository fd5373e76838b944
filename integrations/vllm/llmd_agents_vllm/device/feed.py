"""What is told of residency: batches in sequence, kept for whoever asks again soon."""

from collections import deque
from collections.abc import Callable
from typing import Final

from llmd_agents.hints import ResidencyBatch, ResidencyChange

BATCHES_MAX: Final = 512


class Feed:
    """Numbers the batches of one run of the engine.

    Args:
        epoch: names this run.
        resident: returns all that is resident.
    """

    def __init__(self, epoch: str, resident: Callable[[], tuple[ResidencyChange, ...]]) -> None:
        self.epoch = epoch
        self._resident = resident
        self._seq = 0
        self._batches: deque[ResidencyBatch] = deque(maxlen=BATCHES_MAX)

    def publish(self, changes: tuple[ResidencyChange, ...], *, cleared: bool = False) -> None:
        if not changes and not cleared:
            return
        self._seq += 1
        batch = ResidencyBatch(epoch=self.epoch, seq=self._seq, cleared=cleared, changes=changes)
        self._batches.append(batch)

    def since(self, seq: int | None) -> list[ResidencyBatch]:
        """Returns the batches after number `seq`; a snapshot for None, or where some are forgotten."""
        if seq == self._seq:
            return []
        if seq is None or seq > self._seq or seq < self._seq - len(self._batches):
            snapshot = ResidencyBatch(
                epoch=self.epoch, seq=self._seq, snapshot=True, changes=self._resident()
            )
            return [snapshot]
        return list(self._batches)[seq - self._seq :]
