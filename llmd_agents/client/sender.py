"""Posts lifecycle events in the background, so that nobody waits for them."""

import atexit
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

# The one that openai has loaded already. It is not imported later, in the thread that needs it: openai 3
# looks for a loaded httpx while it makes a call, and must not find one that is half loaded.
try:
    import httpx2 as httpx
except ModuleNotFoundError:
    import httpx  # type: ignore[no-redef]

from llmd_agents.hints import Event, encode_events
from llmd_agents.hints.limits import EVENTS_PER_BATCH_MAX

from . import quiet

__all__ = ["Credential", "EventSender", "Sender", "httpx", "sender_for", "use_sender"]

log = logging.getLogger("llmd_agents.client")

BATCH_SECONDS = 0.05
QUEUE_MAX = 4096
ATTEMPTS = 4
TIMEOUT_SECONDS = 2.0
IDLE_SECONDS = 10.0
"""After so long without an event the thread ends; the next event starts another."""

EXIT_FLUSH_SECONDS = 0.5

_UNSUPPORTED = frozenset({401, 403, 404, 405, 501})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


# Not the module's own generator: an application that has seeded it must get the same numbers as without us.
_random = random.Random()  # noqa: S311


class Credential:
    """What a call was authorized with: its `Authorization` header, which is read when it is asked for."""

    __slots__ = ("_headers", "_value")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers: Mapping[str, str] | None = headers
        self._value: str | None = None

    @property
    def value(self) -> str | None:
        headers = self._headers
        if headers is not None:
            self._value = headers.get("authorization")
            self._headers = None
        return self._value


class Sender(Protocol):
    """Takes events that are to reach one server; nobody waits for them, and none of this ever raises."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        ...

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        """Queues an event, to be sent under a credential.

        Args:
            make: builds the event. As that takes time, the sender does it when nobody waits.
        """
        ...

    def hurry(self) -> None:
        """Sends what is queued at once rather than with what may follow."""
        ...

    def flush(self, timeout: float) -> bool:
        """Sends what is queued at once; returns whether it had left within `timeout` seconds."""
        ...


class _TransientStatus(Exception):
    """The server may take the same batch a little later."""


class _RefusedBatch(Exception):
    """The server wants this batch neither now nor later; the next one may be welcome."""


class EventSender:
    """Sends batches to one server from a daemon thread of its own.

    The queue is bounded: when it is full the oldest event is dropped and counted. A credential that the
    server refuses, or a server that does not know the endpoint, is tried once.

    Attributes:
        dropped: events that were given up.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.dropped = 0
        self._unwanted: set[str | None] = set()
        self.restart()

    def restart(self) -> None:
        """Begins anew with an empty queue, as a forked child must: it lacks the parent's thread."""
        self._queue: deque[tuple[Credential, Callable[[], Event]]] = deque()
        # The lock itself, where nobody is waited for: a condition is entered by way of Python's code.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._sending = 0
        self._hurry = False
        self._thread: threading.Thread | None = None

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        """Queues an event, to be sent under a credential."""
        with self._lock:
            if self._unwanted and credential.value in self._unwanted:
                return
            if len(self._queue) >= QUEUE_MAX:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append((credential, make))
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="llmd-agents events", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is ending
                    log.debug("events wait: %s", error)
                    return
                self._thread = thread
            if len(self._queue) == 1:  # otherwise the thread knows already, and gathers what comes
                self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._queue and not self._sending

    def hurry(self) -> None:
        """Sends what is queued at once rather than with what may follow."""
        with self._changed:
            self._hurry = bool(self._queue)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Sends what is queued at once; returns whether it had left within `timeout` seconds."""
        self.hurry()
        with self._changed:
            return self._changed.wait_for(lambda: self.idle, timeout)

    def _work(self) -> None:
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
                while batch := self._next_batch():
                    self._send(client, *batch)
        except Exception as error:  # noqa: BLE001  (events are advice: losing them must not be noticed)
            log.debug("no events can be sent to %s: %s", self.url, error)
            with self._changed:
                self.dropped += len(self._queue) + self._sending
                self._queue.clear()
                self._sending = 0
                self._thread = None
                self._changed.notify_all()

    def _next_batch(self) -> tuple[str | None, list[Callable[[], Event]]] | None:
        """Waits for events and returns those under one credential; None, at the thread's end, when idle."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._queue, IDLE_SECONDS):
                self._thread = None
                return None
            deadline = time.monotonic() + BATCH_SECONDS
            while not self._hurry and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            authorization = self._queue[0][0].value
            makers: list[Callable[[], Event]] = []
            while (
                self._queue
                and self._queue[0][0].value == authorization
                and len(makers) < EVENTS_PER_BATCH_MAX
            ):
                makers.append(self._queue.popleft()[1])
            self._hurry = self._hurry and bool(self._queue)
            self._sending = len(makers)
            return authorization, makers

    def _send(
        self, client: httpx.Client, authorization: str | None, makers: list[Callable[[], Event]]
    ) -> None:
        events: list[Event] = []
        for make in makers:
            with quiet.faults("an event cannot be built"):
                events.append(make())
        dropped = len(makers) - len(events)
        try:
            if events:
                self._post(client, authorization, events)
        except Exception as error:  # noqa: BLE001  (as above)
            log.debug("%d events not sent to %s: %s", len(events), self.url, error)
            dropped = len(makers)
        with self._changed:
            self.dropped += dropped
            self._sending = 0
            self._changed.notify_all()

    def _post(self, client: httpx.Client, authorization: str | None, events: list[Event]) -> None:
        headers = {"content-type": "application/json"}
        if authorization:
            headers["authorization"] = authorization
        body = encode_events(events)
        import tenacity  # only by who sends events

        backoff = tenacity.wait_exponential(multiplier=0.05, max=1.0)
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=lambda state: backoff(state) + _random.uniform(0, 0.05),
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _TransientStatus)),
            reraise=True,
        ):
            with attempt:
                status = client.post(self.url, content=body, headers=headers).status_code
                if status in _TRANSIENT:
                    raise _TransientStatus(f"status {status}")
        if status in _UNSUPPORTED:
            log.debug("%s answers %d: no more events are sent there", self.url, status)
            with self._changed:
                self._unwanted.add(authorization)
                kept = [item for item in self._queue if item[0].value != authorization]
                self._queue = deque(kept)
        elif status >= 400:
            raise _RefusedBatch(f"status {status}")


_senders: dict[str, EventSender] = {}
_replaced: dict[str, Sender] = {}
_lock = threading.Lock()


@contextmanager
def use_sender(url: str, sender: Sender) -> Iterator[None]:
    """Lets another sender take the events for one server while the block runs.

    Args:
        url: where the events would be posted: the API's base URL and `/agent/events`.
    """
    _replaced[url] = sender
    try:
        yield
    finally:
        del _replaced[url]


def sender_for(url: str) -> Sender:
    """Returns the process's one sender for a server."""
    with _lock:
        if (replaced := _replaced.get(url)) is not None:
            return replaced
        sender = _senders.get(url)
        if sender is None:
            if not _senders:
                atexit.register(_flush_all)
            sender = _senders[url] = EventSender(url)
        return sender


def _flush_all() -> None:
    deadline = time.monotonic() + EXIT_FLUSH_SECONDS
    for sender in list(_senders.values()):
        sender.flush(max(0.0, deadline - time.monotonic()))


def _restart_all() -> None:
    # The parent's lock may be held by a thread that the child does not have.
    global _lock
    _lock = threading.Lock()
    for sender in _senders.values():
        sender.restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)
