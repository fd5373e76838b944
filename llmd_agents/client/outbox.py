"""A program's events on their way to the servers that its steps went to."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping

from llmd_agents.hints import Event

from .guard import guard
from .sender import Credential, Sender

EARLY_EVENTS_MAX = 256
_POLL_SECONDS = 0.005


class Outbox:
    """Hands events to the sender of each server that the program has used.

    Events from before the first model call wait here, because only that call tells where they should go.
    """

    def __init__(self) -> None:
        self._credentials: dict[Sender, Credential] = {}
        self._early: deque[Callable[[], Event]] = deque(maxlen=EARLY_EVENTS_MAX)

    @property
    def dropped(self) -> int:
        """Events, of any program of this process, that the servers in use did not get."""
        return sum(getattr(sender, "dropped", 0) for sender in self._credentials)

    def add_sender(self, sender: Sender, headers: Mapping[str, str]) -> None:
        """Adds a server, or takes note of the headers of the latest call to it."""
        credential = Credential(headers)
        if sender in self._credentials:
            self._credentials[sender] = credential
            return
        with guard:
            early = [] if sender in self._credentials else list(self._early)
            self._credentials = {**self._credentials, sender: credential}
        for make in early:
            sender.put(make, credential)

    def put(self, make: Callable[[], Event]) -> None:
        with guard:
            if len(self._early) < EARLY_EVENTS_MAX:
                # Kept for a second server that the program may turn to later.
                self._early.append(make)
            credentials = self._credentials
        for sender, credential in credentials.items():
            sender.put(make, credential)

    def flush(self, timeout: float) -> None:
        """Waits until everything has left, at most `timeout` seconds in all."""
        deadline = time.monotonic() + timeout
        for sender in self._credentials:
            sender.flush(max(0.0, deadline - time.monotonic()))

    async def flush_async(self, timeout: float) -> None:  # noqa: ASYNC109  (as `flush`, not a cancellation)
        """As `flush`, but needs no thread: the event loop's may all be busy with the application's work."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        for sender in self._credentials:
            sender.hurry()
        for sender in self._credentials:
            # The sender's thread knows no event loop; asking it now and then spares it from knowing all.
            while not sender.idle and clock() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
