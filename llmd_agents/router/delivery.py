"""Directives to one engine: sent in the background, and answered or given up."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable
from typing import TypeAlias

import aiohttp
from pydantic import ValidationError

from llmd_agents.hints import (
    KV_PATH,
    DirectiveOutcome,
    EngineKv,
    UnreadableHints,
    decode_outcomes,
    encode_directives,
)
from llmd_agents.hints.errors import first_problem
from llmd_agents.runtime import Issued

from . import quiet
from .config import EngineConfig
from .directive_queue import DirectiveQueue

log = logging.getLogger("llmd_agents.router")

TIMEOUT_SECONDS = 3.0
"""More than an engine may take to find out that a peer does not answer."""

FAILURES_MAX = 3
PAUSE_SECONDS = 60.0
"""How long an engine that takes no directives, or answers them with nothing of use, is left alone."""

UNREACHABLE_PAUSE_SECONDS = 1.0

REFRESH_SECONDS = 10.0
"""How often an engine is asked again what it can do: what its work costs, it may learn as it goes."""

MESSAGE_ACTIONS_MAX = 256
"""Fewer than the contract allows: writing and reading a message holds other calls up for about 1 ms."""

ANSWER_MAX_BYTES = 1 << 20

_UNSUPPORTED = frozenset((404, 405, 501))

Answered: TypeAlias = Callable[[Issued, DirectiveOutcome | None], None]
"""Told what became of a directive; None if it was not delivered."""


class _NoUse(Exception):
    """The exchange came to nothing; the message says why."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


class Delivery:
    """Sends one engine what the runtime asks of it, and finds out whether it takes that.

    Args:
        name: of the engine.
        config: its address.
        session: for these exchanges alone, so that model calls share no connection with them.
        is_up: whether the engine is believed to answer.
        answered: told of every directive that was put in, once.
        learned: told what the engine can do; None when it takes no directives (any more).
        dropped: told of every directive that a full queue had no room for.
    """

    def __init__(
        self,
        name: str,
        config: EngineConfig,
        session: aiohttp.ClientSession,
        *,
        is_up: Callable[[], bool],
        answered: Answered,
        learned: Callable[[EngineKv | None], None],
        dropped: Callable[[], None],
    ) -> None:
        self._name = name
        self._url = config.url + KV_PATH
        self._headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._session = session
        self._is_up = is_up
        self._answered = answered
        self._learned = learned
        self._dropped = dropped
        self._queue = DirectiveQueue()
        self._filled = asyncio.Event()
        self._look = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._epoch: str | None = None
        self._takes = False
        self._failures = 0
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Serves until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._discover_for_ever())
                tasks.create_task(self._send_for_ever())
        finally:
            self._look_no_more()

    def put(self, issued: Issued) -> None:
        """Queues a directive; never waits."""
        if not self._takes:
            self._answered(issued, None)
            return
        displaced = self._queue.put(issued)
        if displaced is not None:
            if displaced.why == "dropped":
                self._dropped()
            self._answered(displaced.issued, None)
        self._filled.set()

    def cancel_queued(self) -> None:
        """Gives up what has not been sent."""
        self._give_up(self._queue.take(len(self._queue)))

    def look_again(self) -> None:
        """Asks the engine again what it can do, as after a restart."""
        self._look.set()

    def seen_epoch(self, epoch: str) -> None:
        """Takes note of the run of the engine that was heard of; a new one is asked what it can do."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._look.set()

    # --- what the engine can do

    async def _discover_for_ever(self) -> None:
        while True:
            self._look.clear()
            try:
                self._learn(await self._discover())
            except _NoUse as failure:
                self._asked_in_vain(failure)
            except Exception:
                # No answer of an engine may end this task.
                log.exception("asking %s for its cache's interface failed; it is left alone", self._name)
                self._learn(None)
            await self._look.wait()

    async def _discover(self) -> EngineKv | None:
        """Returns what the engine can do; None if it takes no directives.

        Raises:
            _NoUse: if it does not say.
        """
        status, data = await self._exchange("GET", None)
        if status in _UNSUPPORTED:
            return None
        if status != 200:
            raise _NoUse(f"status {status}")
        try:
            return EngineKv.model_validate_json(data)
        except ValidationError as error:
            raise _NoUse(first_problem(error)) from None

    def _asked_in_vain(self, failure: _NoUse) -> None:
        if failure.unreachable:
            # It may be just starting, before any health check could have found it down.
            pause = UNREACHABLE_PAUSE_SECONDS if self._is_up() else PAUSE_SECONDS
        elif self._takes:
            pause = REFRESH_SECONDS
        else:
            self._warn(failure)
            pause = PAUSE_SECONDS
        if self._takes:
            # What it has told holds until it takes no directives: one question in vain shows nothing.
            self._look_in(pause)
        else:
            self._learn(None, pause)

    def _learn(self, kv: EngineKv | None, pause: float = PAUSE_SECONDS) -> None:
        self._takes = kv is not None
        self._failures = 0
        if kv is not None:
            self._epoch = kv.epoch
            self._look_in(REFRESH_SECONDS)
        else:
            self.cancel_queued()
            self._look_in(pause)
        self._learned(kv)

    def _look_in(self, seconds: float) -> None:
        def look() -> None:
            self._again = None
            self._look.set()

        self._look_no_more()
        self._again = asyncio.get_running_loop().call_later(seconds, look)

    def _look_no_more(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _warn(self, failure: _NoUse) -> None:
        quiet.warn(f"directives {self._name}", "%s gets no directives for a while: %s", self._name, failure)

    # --- what it is asked for

    async def _send_for_ever(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while batch := self._queue.take(MESSAGE_ACTIONS_MAX):
                try:
                    await self._send(batch)
                except Exception:
                    log.exception("sending directives to %s failed; it goes on", self._name)

    async def _send(self, batch: list[Issued]) -> None:
        answers: dict[str, DirectiveOutcome] = {}
        try:
            answers = await self._ask(batch)
            self._failures = 0
        except _NoUse as failure:
            self._failures += 1
            log.debug("directives to %s: %s", self._name, failure)
            if self._failures >= FAILURES_MAX:
                self._warn(failure)
                self._learn(None)
        finally:
            for issued in batch:
                self._answered(issued, answers.get(issued.id))

    async def _ask(self, batch: list[Issued]) -> dict[str, DirectiveOutcome]:
        """Returns what the engine answers, by action.

        Raises:
            _NoUse: if it does not answer, or with nothing of use.
        """
        message_id = f"m{next(self._numbers)}"
        body = encode_directives(message_id, ((issued.id, issued.directive) for issued in batch))
        status, data = await self._exchange("POST", body)
        if status in _UNSUPPORTED:
            self._learn(None)
            return {}
        if status != 200:
            raise _NoUse(f"status {status}")
        try:
            outcomes = decode_outcomes(data).outcomes
        except UnreadableHints as error:
            raise _NoUse(str(error)) from None
        asked = {issued.id for issued in batch}
        answers = {outcome.action_id: outcome for outcome in outcomes if outcome.action_id in asked}
        if not answers:
            raise _NoUse("none of the actions was answered")
        return answers

    def _give_up(self, batch: Iterable[Issued]) -> None:
        for issued in batch:
            self._answered(issued, None)

    async def _exchange(self, method: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {**self._headers, "content-type": "application/json"} if body else self._headers
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with self._session.request(
                method, self._url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status, await _read(response)
        except aiohttp.ClientConnectorError as error:
            raise _NoUse("cannot be reached", unreachable=True) from error
        except TimeoutError as error:
            raise _NoUse(f"no answer within {TIMEOUT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _NoUse(f"broke off: {type(error).__name__}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > ANSWER_MAX_BYTES:
            response.close()
            raise _NoUse(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
    return bytes(data)
