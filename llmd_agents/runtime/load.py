"""What the calls under way at one engine take of its device, and how long they take."""

from collections.abc import Iterable
from typing import Final

from .contexts import BYTES_PER_TOKEN

CALL_S: Final = 5.0
"""How long a call takes, until the first have ended."""

MEMORY: Final = 0.05
"""Weight of the latest call in the mean duration."""


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
