"""Posts lifecycle events in the background, so that nobody waits for them."""

import atexit
import logging
import threading
import time
from collections import deque

import tenacity

# The one that openai has loaded already. It is not imported later, in the thread that needs it: openai 3
# looks for a loaded httpx while it makes a call, and must not find one that is half loaded.
try:
    import httpx2 as httpx
except ModuleNotFoundError:
    import httpx  # type: ignore[no-redef]

from llmd_agents.hints import Event, encode_events
from llmd_agents.hints.limits import EVENTS_PER_BATCH_MAX

log = logging.getLogger("llmd_agents.client")

BATCH_SECONDS = 0.05
QUEUE_MAX = 4096
ATTEMPTS = 4
TIMEOUT_SECONDS = 2.0
EXIT_FLUSH_SECONDS = 0.5

_UNSUPPORTED = frozenset({401, 403, 404, 405, 501})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TransientStatus(Exception):
    """The server may take the same batch a little later."""


class _RefusedBatch(Exception):
    """The server wants this batch neither now nor later; the next one may be welcome."""


class EventSender:
    """Sends batches to one server from a daemon thread of its own.

    The queue is bounded: when it is full the oldest event is dropped and counted. A server that does not
    know the endpoint is asked once.

    Attributes:
        dropped: events that were given up.
    """

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url
        self.dropped = 0
        self._headers = {**headers, "content-type": "application/json"}
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._hurry = False
        self._off = False
        self._thread: threading.Thread | None = None

    def put(self, event: Event) -> None:
        with self._changed:
            if self._off:
                return
            if len(self._queue) >= QUEUE_MAX:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="llmd-agents events", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Sends what is queued at once; returns whether it had left within `timeout` seconds."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def _work(self) -> None:
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            while batch := self._next_batch():
                try:
                    self._post(client, batch)
                except Exception as error:  # noqa: BLE001  (events are advice: losing them must not be noticed)
                    log.debug("%d events not sent to %s: %s", len(batch), self.url, error)
                    self.dropped += len(batch)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next_batch(self) -> list[Event]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue)
            deadline = time.monotonic() + BATCH_SECONDS
            while not self._hurry and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._hurry = False
            self._busy = True
            count = min(len(self._queue), EVENTS_PER_BATCH_MAX)
            return [self._queue.popleft() for _ in range(count)]

    def _post(self, client: httpx.Client, batch: list[Event]) -> None:
        body = encode_events(batch)
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=0.05, max=1.0) + tenacity.wait_random(0, 0.05),
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _TransientStatus)),
            reraise=True,
        ):
            with attempt:
                status = client.post(self.url, content=body, headers=self._headers).status_code
                if status in _TRANSIENT:
                    raise _TransientStatus(f"status {status}")
        if status in _UNSUPPORTED:
            log.debug("%s answers %d: no more events are sent there", self.url, status)
            with self._changed:
                self._off = True
                self._queue.clear()
        elif status >= 400:
            raise _RefusedBatch(f"status {status}")


_senders: dict[tuple[str, str], EventSender] = {}
_lock = threading.Lock()


def sender_for(url: str, authorization: str | None) -> EventSender:
    """Returns the process's one sender for a server and a credential."""
    key = (url, authorization or "")
    with _lock:
        sender = _senders.get(key)
        if sender is None:
            if not _senders:
                atexit.register(_flush_all)
            headers = {"authorization": authorization} if authorization else {}
            sender = _senders[key] = EventSender(url, headers)
        return sender


def _flush_all() -> None:
    deadline = time.monotonic() + EXIT_FLUSH_SECONDS
    for sender in list(_senders.values()):
        sender.flush(max(0.0, deadline - time.monotonic()))
