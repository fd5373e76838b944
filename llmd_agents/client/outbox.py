"""A program's events on their way to the servers that its steps went to."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from llmd_agents.hints import Event

from .sender import EventSender

log = logging.getLogger("llmd_agents.client")

EARLY_EVENTS_MAX = 256


class Outbox:
    """Hands events to the sender of each server that the program has used.

    Events from before the first model call wait here, because only that call tells where they should go.
    """

    def __init__(self) -> None:
        self._senders: list[EventSender] = []
        self._early: deque[Event] = deque(maxlen=EARLY_EVENTS_MAX)
        self._lock = threading.Lock()

    def add_sender(self, sender: EventSender) -> None:
        if sender in self._senders:
            return
        with self._lock:
            if sender in self._senders:
                return
            for event in self._early:
                sender.put(event)
            self._senders = [*self._senders, sender]

    def put(self, event: Event) -> None:
        with self._lock:
            if len(self._early) < EARLY_EVENTS_MAX:
                # Kept for a second server that the program may turn to later.
                self._early.append(event)
            senders = self._senders
        for sender in senders:
            sender.put(event)

    def put_new(self, make: Callable[[], Event]) -> None:
        """Builds and puts an event about something that must run whether or not the event can be built."""
        try:
            self.put(make())
        except ValueError as error:
            log.debug("event not sent: %s", error)

    def flush(self, timeout: float) -> None:
        """Waits until everything has left, at most `timeout` seconds in all."""
        for sender in self._senders:
            sender.flush(timeout / len(self._senders))
