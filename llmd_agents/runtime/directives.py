"""Directives on their way to engines, and what became of them."""

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass

from llmd_agents.hints import Directive

QUEUE_MAX = 20_000
PENDING_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Issued:
    """A directive that a body has to deliver.

    Attributes:
        id: the action's id, unique in this runtime.
        directive: a prefetch from a peer names the engine there; the body puts its address in place.
        program: whose hints it follows from.
        call: for a warm-up: the call under way whose prompt begins with the context.
    """

    id: str
    engine: str
    directive: Directive
    tenant: str
    program: str | None = None
    call: int | None = None


class Ledger:
    """What was issued and has not been taken by the body, and what was taken and has not been answered.

    Both are bounded: past the limit the oldest is forgotten, as if it had never been answered.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._queue: deque[Issued] = deque(maxlen=QUEUE_MAX)
        self._pending: OrderedDict[str, Issued] = OrderedDict()

    def issue(
        self, engine: str, directive: Directive, tenant: str, program: str | None, call: int | None = None
    ) -> Issued:
        issued = Issued(f"d{next(self._ids)}", engine, directive, tenant, program, call)
        self._queue.append(issued)
        return issued

    def take(self) -> list[Issued]:
        taken = list(self._queue)
        self._queue.clear()
        for issued in taken:
            self._pending[issued.id] = issued
        while len(self._pending) > PENDING_MAX:
            self._pending.popitem(last=False)
        return taken

    def drop(self) -> list[Issued]:
        """Takes everything off the queue without its being delivered."""
        dropped = list(self._queue)
        self._queue.clear()
        return dropped

    def answered(self, issued_id: str) -> Issued | None:
        return self._pending.pop(issued_id, None)
