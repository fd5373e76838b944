"""Residency events for subscribers (`hints.residency` describes the batches)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from llmd_agents.hints import ResidencyBatch, ResidencyChange
from llmd_agents.serving import server_sent

HEARTBEAT: Final = b": alive\n\n"


class Subscription:
    """The events that one subscriber has yet to be sent."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[bytes] = deque()
        self._needs_snapshot = True
        self._closed = False
        self._woken = asyncio.Event()

    def put(self, event: bytes) -> None:
        if self._needs_snapshot:
            return  # the snapshot will include it
        if len(self._events) >= self._limit:
            self._events.clear()
            self._needs_snapshot = True
        else:
            self._events.append(event)
        self._woken.set()

    def close(self) -> None:
        self._closed = True
        self._woken.set()

    async def events(self, snapshot: Callable[[], bytes], heartbeat_s: float) -> AsyncIterator[bytes]:
        """Yields server-sent events until closed: a snapshot first, and again after an overflow."""
        while not self._closed:
            if self._needs_snapshot:
                self._needs_snapshot = False
                yield snapshot()
            elif self._events:
                yield self._events.popleft()
            else:
                self._woken.clear()
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await self._woken.wait()
                except TimeoutError:
                    yield HEARTBEAT


class ResidencyFeed:
    """Numbers the batches of one engine and hands them to its subscribers.

    A snapshot carries the number of the last batch before it; 0 stands for the empty cache at the start.

    Args:
        epoch: names this run of the engine.
        resident: returns what is resident now, changes already published included.
        limit: batches kept for a subscriber that does not keep up; past it they give way to a snapshot.
        heartbeat_s: a comment is sent after as many seconds without an event.
    """

    def __init__(
        self,
        epoch: str,
        resident: Callable[[], tuple[ResidencyChange, ...]],
        *,
        limit: int = 256,
        heartbeat_s: float = 5.0,
    ) -> None:
        self.epoch = epoch
        self._resident = resident
        self._limit = limit
        self._heartbeat_s = heartbeat_s
        self._seq = 0
        self._closed = False
        self._subscriptions: dict[Subscription, None] = {}

    def publish(self, changes: tuple[ResidencyChange, ...], *, cleared: bool = False) -> None:
        self._seq += 1
        if self._subscriptions:
            batch = ResidencyBatch(epoch=self.epoch, seq=self._seq, cleared=cleared, changes=changes)
            event = _event(batch)
            for subscription in self._subscriptions:
                subscription.put(event)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Holds a subscription for the block; it is closed already once the feed is."""
        subscription = Subscription(self._limit)
        self._subscriptions[subscription] = None
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            del self._subscriptions[subscription]

    def events(self, subscription: Subscription) -> AsyncIterator[bytes]:
        return subscription.events(self._snapshot, self._heartbeat_s)

    def close(self) -> None:
        """Ends all subscriptions, and those to come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def _snapshot(self) -> bytes:
        return _event(
            ResidencyBatch(epoch=self.epoch, seq=self._seq, snapshot=True, changes=self._resident())
        )


def _event(batch: ResidencyBatch) -> bytes:
    return server_sent(batch.model_dump_json().encode())
