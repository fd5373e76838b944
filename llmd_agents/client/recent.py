"""A mapping that remembers only what was put last."""

from collections import OrderedDict
from typing import TypeVar

from .guard import guard

K = TypeVar("K")
V = TypeVar("V")


class Recent(OrderedDict[K, V]):
    """Keeps at most `most` of the values that were `put`; the one put longest ago goes first.

    Safe to use from several threads. It is a dictionary itself, so that looking something up is no call of
    Python's.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def put(self, key: K, value: V) -> None:
        with guard:
            self[key] = value
            self.move_to_end(key)
            if len(self) > self._most:
                self.popitem(last=False)

    def newest_first(self) -> list[V]:
        with guard:
            return list(reversed(self.values()))
