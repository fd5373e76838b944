"""Publishes KV events over ZeroMQ as vLLM does: PUB for all subscribers, ROUTER for what one has missed.

    PUB      [topic, number, batch]
    ROUTER   asked with [client, empty, first number wanted], it answers with [client, empty, topic, number,
             batch] for each batch that is kept, and at the end with [client, empty, empty, -1, empty]

Numbers are 8 bytes, big-endian, and count from 0.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import zmq
import zmq.asyncio

from .kv_events import END_OF_REPLAY, KvEvent, KvEventBatch, encode_batch

log = logging.getLogger("llmd_agents.engine")

HIGH_WATER_MARK: Final = 1_000
"""Batches that wait for one subscriber; those past it are lost to it, and it sees a gap in the numbers."""

KEPT_MAX: Final = 10_000
KEPT_MAX_BYTES: Final = 64 << 20
"""Batches kept for those who missed them, and their size together."""

REPLAY_TURN: Final = 64
"""Batches sent again before others get their turn."""


class BadEndpoint(ValueError):
    """The address cannot be used; the message says why."""


class KvEventPublisher:
    """Sockets at the given addresses, from the start; nothing here ever waits for a subscriber.

    As in vLLM, an address with `*` or `::` and any `ipc://` or `inproc://` is bound to, any other connected
    to. A replay endpoint is always bound to.

    Args:
        endpoint: a ZeroMQ address, such as `tcp://*:5557`.
        topic: first frame of every message.
        replay_endpoint: where missed batches can be asked for; None for nowhere.
        wall: Unix time in seconds.

    Attributes:
        endpoint: the address as it came to be, with the port that was taken.
        replay_endpoint: likewise.
        binds: whether subscribers connect to `endpoint`, rather than the other way round.

    Raises:
        BadEndpoint: if an address cannot be used.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        topic: str = "",
        replay_endpoint: str | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.binds = "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))
        self._topic = topic.encode()
        self._wall = wall
        self._seq = 0
        self._kept: deque[tuple[bytes, bytes]] = deque()
        self._kept_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._context = zmq.Context()
        self._router: zmq.Socket[bytes] | None = None
        try:
            self._pub = self._socket(zmq.PUB, HIGH_WATER_MARK)
            self.endpoint = _opened(self._pub, endpoint, bind=self.binds)
            self.replay_endpoint = None
            if replay_endpoint is not None:
                # Room for all that is kept, since a ROUTER drops what does not fit.
                self._router = self._socket(zmq.ROUTER, KEPT_MAX + 1)
                self._router.setsockopt(zmq.MAXMSGSIZE, 64)
                self.replay_endpoint = _opened(self._router, replay_endpoint, bind=True)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def start(self) -> None:
        """Begins to answer those who missed something; to be called in the event loop that publishes."""
        if self._router is not None:
            router = zmq.asyncio.Socket.from_socket(self._router)
            self._task = asyncio.get_running_loop().create_task(self._replay_for_ever(router))

    def publish(self, events: Sequence[KvEvent]) -> None:
        """Sends one batch, unless it is empty."""
        if not events or self._context.closed:
            return
        batch = encode_batch(KvEventBatch(self._wall(), list(events), 0))
        number = self._seq.to_bytes(8, "big")
        self._seq += 1
        self._kept.append((number, batch))
        self._kept_bytes += len(batch)
        while len(self._kept) > KEPT_MAX or self._kept_bytes > KEPT_MAX_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])
        with contextlib.suppress(zmq.Again):
            self._pub.send_multipart((self._topic, number, batch), zmq.NOBLOCK)

    async def close(self) -> None:
        """Closes the sockets; what no subscriber has taken is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)

    def _socket(self, kind: int, high_water_mark: int) -> "zmq.Socket[bytes]":
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.set_hwm(high_water_mark)
        socket.setsockopt(zmq.LINGER, 0)
        return socket

    async def _replay_for_ever(self, router: zmq.asyncio.Socket) -> None:
        while True:
            try:
                await self._replay(router, await router.recv_multipart())
            except zmq.ZMQError:
                log.exception("a replay of KV events failed; it goes on")

    async def _replay(self, router: zmq.asyncio.Socket, asked: list[bytes]) -> None:
        if len(asked) != 3 or len(asked[2]) != 8:
            return
        client, _, first = asked
        # Numbers of equal length are in order as bytes are.
        wanted = [kept for kept in self._kept if kept[0] >= first]
        for index, (number, batch) in enumerate(wanted, 1):
            await router.send_multipart((client, b"", self._topic, number, batch))
            if index % REPLAY_TURN == 0:
                await asyncio.sleep(0)
        await router.send_multipart((client, b"", b"", END_OF_REPLAY, b""))


def _opened(socket: "zmq.Socket[bytes]", endpoint: str, *, bind: bool) -> str:
    try:
        if not bind:
            socket.connect(endpoint)
            return endpoint
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise BadEndpoint(f"{endpoint}: {error.strerror or error}") from None
    last = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(last, bytes)
    return last.rstrip(b"\0").decode()
