"""Directives on their way to engines, and what became of them."""

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass

from llmd_agents.hints import Directive, Prefetch

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


@dataclass(frozen=True, slots=True)
class Answered:
    """A directive that has been answered.

    Attributes:
        at_hand: for a prefetch: a call, then under way, whose prompt begins with the context.
        stands_in: a warm-up in place of a prefetch.
    """

    issued: Issued
    at_hand: int | None
    stands_in: bool


class Ledger:
    """What was issued and has not been taken by the body, and what was taken and has not been answered.

    Both are bounded: past the limit the oldest is forgotten, as if it had never been answered.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._queue: deque[Issued] = deque(maxlen=QUEUE_MAX)
        self._pending: OrderedDict[str, Issued] = OrderedDict()
        self._at_hand: OrderedDict[str, int] = OrderedDict()
        self._standing_in: OrderedDict[str, None] = OrderedDict()

    def issue(
        self, engine: str, directive: Directive, tenant: str, program: str | None, call: int | None = None
    ) -> Issued:
        """Adds a directive. A prefetch needs no call; the one at hand is kept until it has been answered."""
        fetches = isinstance(directive, Prefetch)
        needed = None if fetches else call
        issued = Issued(f"d{next(self._ids)}", engine, directive, tenant, program, needed)
        self._queue.append(issued)
        if fetches and call is not None:
            self._at_hand[issued.id] = call
            if len(self._at_hand) > PENDING_MAX:
                self._at_hand.popitem(last=False)
        return issued

    def stands_in(self, issued_id: str) -> None:
        """Notes that a warm-up was issued in place of a prefetch."""
        self._standing_in[issued_id] = None
        if len(self._standing_in) > PENDING_MAX:
            self._standing_in.popitem(last=False)

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

    def answered(self, issued_id: str) -> Answered | None:
        issued = self._pending.pop(issued_id, None)
        at_hand = self._at_hand.pop(issued_id, None)
        stands_in = issued_id in self._standing_in
        self._standing_in.pop(issued_id, None)
        return Answered(issued, at_hand, stands_in) if issued is not None else None
