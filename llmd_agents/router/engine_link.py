"""The router's standing connections to one engine: is it up, and what does it hold?"""

import asyncio
import contextlib
import logging

import aiohttp
from pydantic import ValidationError

from llmd_agents.hints import RESIDENCY_PATH, ResidencyBatch
from llmd_agents.hints.errors import first_problem
from llmd_agents.runtime import Runtime

from . import quiet
from .config import EngineConfig
from .replies import EventSplitter

log = logging.getLogger("llmd_agents.router")

SILENCE_SECONDS = 30.0
"""A residency stream that says nothing for this long, not even a heartbeat, is opened anew."""

UNSUPPORTED_RETRY_SECONDS = 60.0


class EngineLink:
    """Keeps the runtime informed of one engine until cancelled."""

    def __init__(
        self,
        name: str,
        config: EngineConfig,
        runtime: Runtime,
        session: aiohttp.ClientSession,
        *,
        interval_s: float,
    ) -> None:
        self._name = name
        self._url = config.url
        self._headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._runtime = runtime
        self._session = session
        self._interval_s = interval_s

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_health())
            tasks.create_task(self._follow_residency())

    async def _watch_health(self) -> None:
        while True:
            if await self._healthy():
                self._runtime.engine_up(self._name)
            else:
                self._runtime.engine_down(self._name)
            await asyncio.sleep(self._interval_s)

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

    async def _follow_residency(self) -> None:
        while True:
            supported = True
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                supported = await self._read_residency()
            await asyncio.sleep(self._interval_s if supported else UNSUPPORTED_RETRY_SECONDS)

    async def _read_residency(self) -> bool:
        """Reads one stream of residency events to its end; returns whether the engine has one at all."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS)
        headers = {**self._headers, "accept": "text/event-stream"}
        async with self._session.get(
            self._url + RESIDENCY_PATH, headers=headers, timeout=timeout
        ) as response:
            if response.status != 200:
                return False
            splitter = EventSplitter()
            async for data in response.content.iter_any():
                for event in splitter.feed(data):
                    if event.startswith(b"data:") and not self._take(event[5:]):
                        return True
        return True

    def _take(self, data: bytes) -> bool:
        try:
            return self._runtime.report(self._name, ResidencyBatch.model_validate_json(data))
        except ValidationError as error:
            quiet.warn(
                f"residency {self._name}", "%s sent a residency event of an unknown form: %s",
                self._name, first_problem(error),
            )  # fmt: skip
            return False
