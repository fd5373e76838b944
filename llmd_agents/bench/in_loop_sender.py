"""Lifecycle events on their way to a simulated fleet: batched as by the client's own sender, in no thread."""

import asyncio
from collections.abc import Callable, Sequence

from llmd_agents.client.sender import BATCH_SECONDS, Credential
from llmd_agents.hints import Event


class InLoopSender:
    """A sender (`client.sender.Sender`) for an event loop in virtual time.

    Args:
        deliver: takes a batch when it has crossed the network.
        network_s: how long that takes, one way.
    """

    def __init__(self, deliver: Callable[[Sequence[Event]], None], network_s: float) -> None:
        self._deliver = deliver
        self._network_s = network_s
        self._queue: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = 0

    @property
    def idle(self) -> bool:
        return not self._queue and not self._under_way

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        self._queue.append(make())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self._send)

    def hurry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._send()

    def flush(self, timeout: float) -> bool:
        # Whoever calls this holds the loop up, so nothing can arrive meanwhile.
        self.hurry()
        return self.idle

    def _send(self) -> None:
        batch, self._queue, self._timer = self._queue, [], None
        self._under_way += 1
        asyncio.get_running_loop().call_later(self._network_s, self._arrive, batch)

    def _arrive(self, batch: Sequence[Event]) -> None:
        self._under_way -= 1
        self._deliver(batch)
