"""vLLM's queue of waiting requests, handed out in the order of `queue_order`.

vLLM's own queue holds the requests, so that none can be lost and a fault of ours leaves vLLM's own order.
The scheduler looks at the head (`peek_request`), then takes it out (`pop_request`), to run it or to skip it;
while `bool` says False it admits nobody.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from .cached_prefix import CachedPrefix
from .carried import read
from .queue_order import QueueRule, Running, Standing, Waiting, admission_order

WINDOW: Final = 256
"""So many requests from the head of vLLM's own queue are put in order; the others come after them."""

WINDOWS_MAX: Final = 4
"""Where all of a window are held back, the next is looked at, so many in all."""

FEW: Final = 32
KEPT_STEPS: Final = 8
"""An order of more than `FEW` requests is kept for so many steps, unless somebody comes or goes unasked:
making it takes about ten microseconds a request."""

T = TypeVar("T")

log = logging.getLogger("vllm.llmd_agents")


@dataclass(slots=True)
class _Known:
    """What is remembered of a request while it is in the engine.

    `present`: blocks of its prompt that were cached when last looked for.
    """

    standing: Standing
    arrival_s: float
    present: int = 0


class AgentQueue(RequestQueue):
    """Wraps vLLM's queue; every request is in that queue and nowhere else.

    Args:
        queue: vLLM's, empty.
        rule: of the order.
        by_engine_priority: vLLM's policy is `priority`.
        running: the requests that have been admitted.
        step: a number that changes with every step of the scheduler.
        cached: what is cached of a prompt; without it nothing is, and the shortest prompts go first.
        clock: seconds.
    """

    def __init__(
        self,
        queue: RequestQueue,
        rule: QueueRule,
        *,
        by_engine_priority: bool,
        running: Callable[[], Sequence[Request]],
        step: Callable[[], int],
        cached: CachedPrefix | None,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._rule = rule
        self._by_engine_priority = by_engine_priority
        self._running = running
        self._step = step
        self._cached = cached
        self._clock = clock
        self._known: WeakKeyDictionary[Request, _Known] = WeakKeyDictionary()
        # The order in which to offer, the next at the end; None when it is to be made anew.
        self._offers: list[Request] | None = None
        self._offers_until = 0
        # Who was taken out last, and the first block that it lacked.
        self._popped: tuple[Request, bytes] | None = None
        self._faulty = False

    # --- the order

    def _next(self) -> Request | None:
        """Returns who is offered now; None if nobody is."""
        if not self._queue:
            return None
        return self._safely(self._offered, otherwise=self._queue.peek_request)

    def _offered(self) -> Request | None:
        step = self._step()
        if self._offers is None or step >= self._offers_until or self._now_cached():
            self._offers, self._popped = self._order(), None
            # Who is held back is looked at again in every step.
            keep = bool(self._offers) and len(self._queue) > FEW
            self._offers_until = step + (KEPT_STEPS if keep else 1)
        return self._offers[-1] if self._offers else None

    def _now_cached(self) -> bool:
        """Returns whether somebody's prompt begins with blocks that the request admitted last has brought."""
        if self._popped is None or self._cached is None:
            return False
        (popped, block), self._popped = self._popped, None
        return popped.status == RequestStatus.RUNNING and any(
            self._cached.next_missing(request, self._known_of(request).present) == block
            for request in self._offers or ()
        )

    def _order(self) -> list[Request]:
        running = [
            Running(known.standing, request.num_output_tokens > 0)
            for request in self._running()
            if (known := self._known_of(request)).standing.fork is not None
        ]
        now, queued = self._clock(), iter(self._queue)
        for _ in range(WINDOWS_MAX):
            requests = list(islice(queued, WINDOW))
            waiting = [self._waiting(request) for request in requests]
            order = admission_order(waiting, running, now, self._rule)
            if order or len(requests) < WINDOW:
                return [requests[index] for index in reversed(order)]
        return []

    def _waiting(self, request: Request) -> Waiting:
        known, tokens = self._known_of(request), request.num_tokens
        if self._cached is not None:
            known.present = self._cached.present(request, known.present)
            tokens -= known.present * self._cached.block_size
        preempted = request.status == RequestStatus.PREEMPTED
        return Waiting(known.standing, known.arrival_s, tokens, preempted=preempted)

    def _known_of(self, request: Request) -> _Known:
        known = self._known.get(request)
        if known is None:
            standing = standing_of(request, by_engine_priority=self._by_engine_priority)
            known = self._known[request] = _Known(standing, self._clock())
        return known

    def _safely(self, act: Callable[[], T], *, otherwise: Callable[[], T]) -> T:
        if not self._faulty:
            try:
                return act()
            except Exception:
                log.exception(
                    "ordering the queue failed; requests are admitted in vLLM's own order from here on"
                )
                self._faulty = True
                self._changed()
        return otherwise()

    def _changed(self) -> None:
        self._offers = self._popped = None

    # --- what the scheduler calls

    def add_request(self, request: Request) -> None:
        self._queue.add_request(request)
        self._changed()
        # From now on it waits.
        self._safely(lambda: self._known_of(request) and None, otherwise=lambda: None)

    def peek_request(self) -> Request:
        request = self._next()
        if request is None:
            raise IndexError("nobody is to be admitted now")
        return request

    def pop_request(self) -> Request:
        request = self.peek_request()
        self._queue.remove_request(request)
        if self._offers:
            self._offers.pop()
            self._safely(lambda: self._remember(request), otherwise=lambda: None)
        if not self._offers:
            self._changed()
        return request

    def _remember(self, popped: Request) -> None:
        self._popped = None
        if self._cached is not None and (known := self._known.get(popped)) is not None:
            block = self._cached.next_missing(popped, known.present)
            self._popped = None if block is None else (popped, block)

    def prepend_request(self, request: Request) -> None:
        self._queue.prepend_request(request)
        self._changed()

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        self._queue.prepend_requests(requests)
        self._changed()

    def remove_request(self, request: Request) -> None:
        self._queue.remove_request(request)
        self._changed()

    def remove_requests(self, requests: Iterable[Request]) -> None:
        self._queue.remove_requests(requests)
        self._changed()

    def __bool__(self) -> bool:
        return self._next() is not None

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._queue)


def standing_of(request: Request, *, by_engine_priority: bool) -> Standing:
    """Returns what vLLM and the request's hints say of it."""
    engine_priority = request.priority if by_engine_priority else 0
    carried = read(request.kv_transfer_params)
    hints = None if carried is None else carried.hints
    tenant = request.cache_salt
    if hints is None:
        return Standing(engine_priority, tenant=tenant)
    fork = hints.step.fork
    return Standing(
        engine_priority,
        hints.program.priority,
        None if fork is None else (hints.program.id, fork.id),
        math.inf if hints.program.deadline is None else hints.program.deadline,
        tenant,
    )
