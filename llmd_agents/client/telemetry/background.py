"""Ends spans on a thread of their own, so that no exporter can be felt by a model call.

Spans carry their own times, so that it does not matter when they are ended.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("llmd_agents.client")

QUEUE_MAX = 8192
FLUSH_SECONDS = 0.5
IDLE_SECONDS = 5.0
"""After so long without work the thread ends; the next work starts another."""


class Background:
    """Runs what it is given, in order. Nothing raises or waits but `flush`, and that for a bounded time.

    Attributes:
        dropped: what was given up, because the queue was full.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.restart()

    def restart(self) -> None:
        """Begins anew, as a forked child must: it lacks the parent's thread."""
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._busy = False
        self._stuck = False

    def put(self, work: Callable[[], None]) -> None:
        with self._changed:
            if len(self._work) >= QUEUE_MAX:
                self.dropped += 1
                return
            self._work.append(work)
            if not self._running:
                try:
                    threading.Thread(target=self._run, name="llmd-agents spans", daemon=True).start()
                    self._running = True
                except RuntimeError as error:  # no more threads, or the interpreter is ending
                    log.debug("spans not ended: %s", error)
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH_SECONDS) -> bool:
        """Waits until all is done; returns whether it was. After a wait in vain nobody waits again."""
        with self._changed:
            if self._stuck or not self._running:
                return not self._stuck and not self._work
            done = self._changed.wait_for(lambda: not self._work and not self._busy, timeout)
            self._stuck = not done
            return done

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._work, IDLE_SECONDS):
                    self._running = False
                    return
                work = self._work.popleft()
                self._busy = True
            try:
                work()
            except Exception as error:  # noqa: BLE001  (a broken exporter is no reason to lose the next span)
                log.debug("span not ended: %s", type(error).__name__)
            with self._changed:
                self._busy = self._stuck = False
                self._changed.notify_all()


background = Background()
atexit.register(background.flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.restart)
