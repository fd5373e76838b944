"""The router's standing connections to one engine: is it up, and what does it hold?"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import aiohttp
from pydantic import ValidationError

from llmd_agents.hints import RESIDENCY_PATH, ResidencyBatch
from llmd_agents.hints.errors import first_problem
from llmd_agents.runtime import Runtime

from . import quiet
from .actuators import Actuators
from .config import EngineConfig
from .replies import EventSplitter

log = logging.getLogger("llmd_agents.router")

SILENCE_SECONDS = 30.0
"""A residency stream that says nothing for this long, not even a heartbeat, is opened anew."""

UNSUPPORTED_RETRY_SECONDS = 60.0
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
    ) -> None:
        self._name = name
        self._url = config.url
        self._headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._runtime = runtime
        self._session = session
        self._actuators = actuators
        self._interval_s = interval_s

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._check_health))
            tasks.create_task(self._again_and_again(self._read_residency))

    async def _again_and_again(self, once: Callable[[], Awaitable[float]]) -> None:
        """Runs one kind of exchange for ever; each run tells after how many seconds the next begins."""
        while True:
            pause = self._interval_s
            try:
                pause = await once()
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass  # the health check says what there is to say of it
            except Exception:
                # One bad exchange, of whatever kind, must not leave the engine unwatched.
                log.exception("watching %s failed; it goes on", self._name)
            await asyncio.sleep(pause)

    async def _check_health(self) -> float:
        if await self._healthy():
            was_up = self._runtime.engines[self._name].up
            self._runtime.engine_up(self._name, time.time())
            if not was_up:
                self._actuators.engine_is_back(self._name)
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
