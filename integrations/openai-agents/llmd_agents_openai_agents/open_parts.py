"""The parts of runs that are not over, by the ids that the SDK gives their traces and spans."""

import threading
from typing import Final

from .part import Part

PARTS_MAX: Final = 16_384


class OpenParts(dict[str, Part]):
    """Of more than `PARTS_MAX` parts, the oldest are forgotten: their end was never told."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def put(self, key: str, part: Part) -> None:
        self[key] = part
        if len(self) > PARTS_MAX:
            with self._lock:
                forgotten = self.pop(next(iter(self)))
            forgotten.scope.end("abandoned")


open_parts: Final = OpenParts()
"""One for all processors, so that it changes nothing if there are two."""
