"""What one engine is yet to be asked for."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmd_agents.hints import Retain
from llmd_agents.runtime import Issued

QUEUE_MAX = 10_000

_Context: TypeAlias = tuple[bytes, str | None]


@dataclass(frozen=True, slots=True)
class Displaced:
    """A directive that gave way to a newer one: `superseded` by one for the same context, or `dropped`."""

    issued: Issued
    why: Literal["superseded", "dropped"]


class DirectiveQueue:
    """Directives in the order in which they were issued, at most `most` of them.

    Of several retains for one context only the newest is kept: an estimate replaces the one before. In a full
    queue the oldest retain gives way, since estimates age and merely order eviction; without one, the oldest
    directive of any type.
    """

    def __init__(self, *, most: int = QUEUE_MAX) -> None:
        self._most = most
        self._waiting: OrderedDict[str, Issued] = OrderedDict()
        self._retains: OrderedDict[_Context, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, issued: Issued) -> Displaced | None:
        """Adds a directive; returns the one that gave way to it, if any."""
        displaced = None
        directive = issued.directive
        if isinstance(directive, Retain):
            context = (directive.digest, directive.scope)
            if (older := self._retains.pop(context, None)) is not None:
                displaced = Displaced(self._waiting.pop(older), "superseded")
            self._retains[context] = issued.id
        self._waiting[issued.id] = issued
        if len(self._waiting) > self._most:
            displaced = Displaced(self._give_way(), "dropped")
        return displaced

    def take(self, most: int) -> list[Issued]:
        """Removes and returns the oldest directives, at most `most`."""
        taken: list[Issued] = []
        while self._waiting and len(taken) < most:
            _, issued = self._waiting.popitem(last=False)
            directive = issued.directive
            if isinstance(directive, Retain):
                del self._retains[directive.digest, directive.scope]
            taken.append(issued)
        return taken

    def _give_way(self) -> Issued:
        if not self._retains:
            return self._waiting.popitem(last=False)[1]
        _, issued_id = self._retains.popitem(last=False)
        return self._waiting.pop(issued_id)
