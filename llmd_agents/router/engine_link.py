"""The router's standing connections to one engine: is it up, what does it hold, how much has it to do?"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import aiohttp
from pydantic import ValidationError

from llmd_agents.hints import RESIDENCY_PATH, ResidencyBatch
from llmd_agents.hints.errors import first_problem
from llmd_agents.runtime import EngineLoad, Runtime

from . import quiet
from .actuators import Actuators
from .config import EngineConfig
from .load_reading import METRICS_MAX_BYTES, read_load
from .replies import EventSplitter

log = logging.getLogger("llmd_agents.router")

SILENCE_SECONDS = 30.0
"""A residency stream that says nothing for this long, not even a heartbeat, is opened anew."""

UNSUPPORTED_RETRY_SECONDS = 60.0
"""An engine without residency events, or whose metrics say nothing of its load, is asked again after as long,
or when it comes back up."""

SNAPSHOT_MAX_BYTES = 64 << 20
_UNSUPPORTED = frozenset((404, 405, 501))


class EngineLink:
    """Keeps the runtime informed of one engine until cancelled."""

    def __init__(
        self,
        name: str,
        config: EngineConfig,
        runtime: Runtime,
        session: aiohttp.ClientSession,
        actuators: Actuators,
        *,
        interval_s: float,
        load_interval_s: float,
    ) -> None:
        self._name = name
        self._url = config.url
        self._headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._runtime = runtime
        self._session = session
        self._actuators = actuators
        self._interval_s = interval_s
        self._load_interval_s = load_interval_s
        self._came_back = (asyncio.Event(), asyncio.Event())

    async def run(self) -> None:
        residency, load = self._came_back
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._check_health, asyncio.Event()))
            tasks.create_task(self._again_and_again(self._read_residency, residency))
            tasks.create_task(self._again_and_again(self._read_load, load))

    async def _again_and_again(self, once: Callable[[], Awaitable[float]], at_once: asyncio.Event) -> None:
        """Runs one kind of exchange for ever; each run tells after how many seconds the next begins, unless
        it should begin at once."""
        while True:
            at_once.clear()
            pause = self._interval_s
            try:
                pause = await once()
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # the health check says what there is to say of it
            except Exception:
                # One bad exchange, of whatever kind, must not leave the engine unwatched.
                log.exception("watching %s failed; it goes on", self._name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await at_once.wait()

    async def _check_health(self) -> float:
        if await self._healthy():
            was_up = self._runtime.engines[self._name].up
            self._runtime.engine_up(self._name, time.time())
            if not was_up:
                self._actuators.engine_is_back(self._name)
                for event in self._came_back:
                    event.set()
        else:
            self._runtime.engine_down(self._name, time.time())
        return self._interval_s

    async def _healthy(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=max(2.0, self._interval_s))
        try:
            async with self._session.get(
                f"{self._url}/health", headers=self._headers, timeout=timeout
            ) as response:
                # A server without the route is still a server that answers.
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _read_residency(self) -> float:
        """Reads one stream of residency events to its end; returns after how long to ask for another."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS)
        headers = {**self._headers, "accept": "text/event-stream"}
        url = self._url + RESIDENCY_PATH
        async with self._session.get(url, headers=headers, timeout=timeout) as response:
            if response.status in _UNSUPPORTED:
                self._runtime.engine_silent(self._name, time.time())
                return UNSUPPORTED_RETRY_SECONDS
            splitter = EventSplitter(limit=SNAPSHOT_MAX_BYTES)
            async for data in response.content.iter_any():
                for event in splitter.feed(data):
                    if event.startswith(b"data:") and not self._take(event[5:]):
                        return self._interval_s
        return self._interval_s

    def _take(self, data: bytes) -> bool:
        try:
            batch = ResidencyBatch.model_validate_json(data)
            in_sequence = self._runtime.report(self._name, batch, time.time())
        except ValidationError as error:
            quiet.warn(
                f"residency {self._name}", "%s sent a residency event of an unknown form: %s",
                self._name, first_problem(error),
            )  # fmt: skip
            return False
        self._actuators.engine_epoch(self._name, batch.epoch)
        if not in_sequence:
            self._actuators.engine_is_back(self._name)
        self._actuators.changed()
        return in_sequence

    async def _read_load(self) -> float:
        """Reads the engine's metrics once; returns after how long to read them again."""
        began = time.monotonic()
        calls = self._calls()
        data = await self._metrics()
        load = read_load(data) if data is not None else None
        if load is None:
            return UNSUPPORTED_RETRY_SECONDS
        # Calls that begin or end meanwhile may or may not be counted there; they are never taken for others'.
        ours = max(calls, self._calls())
        every_s = self._load_interval_s
        told = EngineLoad(load.running, load.waiting, load.cache_usage, ours, every_s)
        self._runtime.engine_load(self._name, told, time.time())
        return max(every_s - (time.monotonic() - began), 0.0)

    def _calls(self) -> int:
        """Returns how many requests of this router are under way there."""
        return self._runtime.engines[self._name].running + self._actuators.warming(self._name)

    async def _metrics(self) -> bytes | None:
        """Returns the text of the engine's metrics; None if it has none.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: if it does not answer.
        """
        timeout = aiohttp.ClientTimeout(total=max(1.0, self._load_interval_s))
        url = f"{self._url}/metrics"
        async with self._session.get(
            url, headers=self._headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status >= 500 and response.status not in _UNSUPPORTED:
                response.raise_for_status()  # it may have them soon
            if response.status != 200:
                return None
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > METRICS_MAX_BYTES:
                    response.close()
                    return None
            return bytes(data)
