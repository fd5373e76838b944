"""The parts of runs that are not over, by the ids that the SDK gives their traces and spans."""

import threading
from collections import OrderedDict
from typing import Final

from .part import Part

PARTS_MAX: Final = 16_384


class OpenParts:
    """Of more than `PARTS_MAX` parts, the oldest are forgotten: their end was never told."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, Part] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def get(self, key: str | None) -> Part | None:
        return None if key is None else self._parts.get(key)

    def put(self, key: str, part: Part) -> None:
        with self._lock:
            self._parts[key] = part
            forgotten = self._parts.popitem(last=False)[1] if len(self._parts) > PARTS_MAX else None
        if forgotten is not None:
            forgotten.scope.end("abandoned")

    def take(self, key: str) -> Part | None:
        with self._lock:
            return self._parts.pop(key, None)


open_parts: Final = OpenParts()
"""One for all processors, so that it changes nothing if there are two."""
