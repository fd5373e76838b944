"""What the calls under way at one engine take of its device, how long they take, and what else it does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .contexts import BYTES_PER_TOKEN

CALL_S: Final = 5.0
"""How long a call takes, until the first have ended."""

MEMORY: Final = 0.05
"""Weight of the latest call in the mean duration."""

OTHERS_TOKENS: Final = 2048
"""Length of a prompt of which nothing is known but that it is under way."""

STALE: Final = 3.0
"""A reading of an engine's load says nothing any more after as many times the pause between two."""


@dataclass(frozen=True, slots=True)
class Others:
    """Requests under way at an engine that this runtime did not send; `waiting` of `running` wait there."""

    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine tells of all its work, whoever sent it.

    Attributes:
        running, waiting: requests under way, with and without a place in its batch.
        cache_usage: share of its device's blocks that requests hold, 0 to 1; None if it does not tell.
        ours: the most of this runtime's calls that may be among them.
        every_s: seconds between two readings.
    """

    running: int
    waiting: int
    cache_usage: float | None
    ours: int
    every_s: float

    def others(self, age_s: float) -> Others:
        """Returns what of it is not this runtime's, `age_s` seconds after it was read.

        All of that counts until the next reading is due, and less and less from there to `STALE`.
        """
        overdue = age_s / self.every_s - 1.0
        weight = min(max(1.0 - overdue / (STALE - 1.0), 0.0), 1.0)
        running = max(self.running + self.waiting - self.ours, 0)
        return Others(round(weight * running), round(weight * min(self.waiting, running)))


class Occupancy:
    """The context of all calls under way, what they share counted once; and their mean duration.

    Attributes:
        bytes: of canonical prompt.
        call_s: mean seconds from a call's dispatch to its end, the latest weighing most.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.call_s = CALL_S
        self._parts: dict[bytes, list[int]] = {}  # users and size

    def enter(self, parts: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """Counts a call in; returns what to give to `leave`."""
        entered = []
        for digest, size in parts:
            part = self._parts.get(digest)
            if part is None:
                self._parts[digest] = [1, size]
                self.bytes += size
            else:
                part[0] += 1
            entered.append(digest)
        return entered

    def leave(self, entered: Iterable[bytes]) -> None:
        for digest in entered:
            part = self._parts[digest]
            part[0] -= 1
            if not part[0]:
                self.bytes -= part[1]
                del self._parts[digest]

    def took(self, seconds: float) -> None:
        """Notes how long a call took that was answered to its end."""
        self.call_s += MEMORY * (seconds - self.call_s)

    def missing(self, parts: Iterable[tuple[bytes, int]]) -> int:
        """Returns how many bytes of a call's context no call under way includes."""
        return sum(size for digest, size in parts if digest not in self._parts)

    def wait_s(self, more_bytes: int, capacity_tokens: int) -> float:
        """Returns how long a call that brings so much more would wait for room on the device.

        Calls end, and so give room back, at the rate at which they came: all of it within one duration.
        """
        over = self.bytes + more_bytes - capacity_tokens * BYTES_PER_TOKEN
        return self.call_s * over / self.bytes if over > 0 and self.bytes > 0 else 0.0
