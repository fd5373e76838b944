"""Warm-up requests: a call under way sent to a further engine too, for its prompt alone.

They bring a context to engines that can read it from no tier and no peer, whatever server they are. The
engine sees the body of the call with one output token, unstreamed, not stored, at its lowest priority and
without hints, so that it is no step of any program.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from llmd_agents.hints import HINTS_HEADER, DirectiveOutcome
from llmd_agents.runtime import Issued
from llmd_agents.runtime.reading import is_plain_json_object

from .bodies import splice
from .config import EngineConfig
from .delivery import Answered
from .priorities import Priorities, refuses_priority, without_priority
from .replies import usage_of
from .routes import CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH
from .upstream import Answer, EngineFailed, Outgoing, Sessions, ask

log = logging.getLogger("llmd_agents.router")

WARM_UP_HEADER = "x-llmd-warm-up"
UNDER_WAY_MAX = 2
"""Warm-ups that one engine computes at a time."""

WAITING_MAX = 16

LOWEST_PRIORITY = 2**31 - 1
"""In the engines' order: a lower number runs earlier."""

_SHORT: Final[dict[str, dict[str, Any]]] = {
    CHAT_PATH: {"max_tokens": 1, "stream": False},
    COMPLETIONS_PATH: {"max_tokens": 1, "stream": False},
    RESPONSES_PATH: {"max_output_tokens": 1, "stream": False, "store": False},
}
"""What makes a call generate a single token, and leave nothing behind."""

_IN_THE_WAY: Final = {
    "max_completion_tokens": None,
    "stream_options": None,
    "min_tokens": 0,
    "n": 1,
    "best_of": None,
    "background": False,
}
"""What may not stand beside a single token that is not streamed, and what it becomes. It is overridden only
where the body seems to have it, since not every engine knows all of it."""

Prepare: TypeAlias = Callable[[EngineConfig], Outgoing]
"""Makes the request of a call under way, as an engine would be sent it."""


@dataclass(slots=True)
class _Engine:
    name: str
    config: EngineConfig
    waiting: deque[Issued] = field(default_factory=deque)
    under_way: set[asyncio.Task[DirectiveOutcome | None]] = field(default_factory=set)


class WarmUps:
    """Sends warm-up requests; each once, and only while the call that it copies is under way.

    Args:
        engines: all of them, by name.
        priorities: what is known of their taking one; learns from each warm-up.
        sessions: for these requests alone.
        answered: told of every directive that was put in, once.
        timeout_s: how long an engine may take for one.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineConfig],
        priorities: Priorities,
        sessions: Sessions,
        answered: Answered,
        *,
        timeout_s: float,
    ) -> None:
        self._engines = {name: _Engine(name, config) for name, config in engines.items()}
        self._priorities = priorities
        self._sessions = sessions
        self._answered = answered
        self._timeout_s = timeout_s
        self._calls: dict[int, Prepare] = {}

    def hold(self, call_id: int, prepare: Prepare) -> None:
        """Makes a call's request available until `let_go`."""
        self._calls[call_id] = prepare

    def let_go(self, call_id: int) -> None:
        """Forgets a call that has ended; its warm-ups that have not begun are given up in their turn."""
        self._calls.pop(call_id, None)

    def put(self, issued: Issued) -> None:
        """Sends a warm-up as soon as the engine has room for it; never waits."""
        engine = self._engines[issued.engine]
        if len(engine.waiting) >= WAITING_MAX:
            self._answered(issued, None)
            return
        engine.waiting.append(issued)
        self._start(engine)

    def cancel(self) -> None:
        """Gives up those that wait and those under way, which frees the engines at once."""
        for engine in self._engines.values():
            while engine.waiting:
                self._answered(engine.waiting.popleft(), None)
            for task in engine.under_way:
                task.cancel()

    def under_way(self, engine: str) -> int:
        """Returns how many an engine is computing."""
        return len(self._engines[engine].under_way)

    async def close(self) -> None:
        """Cancels everything and waits until it has ended."""
        self.cancel()
        tasks = [task for engine in self._engines.values() for task in engine.under_way]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, engine: _Engine) -> None:
        while engine.waiting and len(engine.under_way) < UNDER_WAY_MAX:
            issued = engine.waiting.popleft()
            prepare = self._calls.get(issued.call) if issued.call is not None else None
            if prepare is None:
                self._answered(issued, None)
                continue
            task = asyncio.create_task(self._send(engine, issued, prepare))
            engine.under_way.add(task)
            task.add_done_callback(partial(self._ended, engine, issued))

    def _ended(self, engine: _Engine, issued: Issued, task: asyncio.Task[DirectiveOutcome | None]) -> None:
        engine.under_way.discard(task)
        outcome = None
        if not task.cancelled():
            if (error := task.exception()) is not None:
                log.error("a warm-up failed; calls go on", exc_info=error)
            else:
                outcome = task.result()
        self._answered(issued, outcome)
        self._start(engine)

    async def _send(self, engine: _Engine, issued: Issued, prepare: Prepare) -> DirectiveOutcome | None:
        call = prepare(engine.config)
        try:
            answer = await self._ask(engine, call)
        except EngineFailed as failure:
            log.debug("a warm-up on %s: %s", issued.engine, failure)
            return None
        if answer is None:
            reason = "the call's body is not a plain JSON object"
            return DirectiveOutcome(action_id=issued.id, outcome="rejected", reason=reason)
        try:
            if answer.status >= 400:
                reason = f"status {answer.status}"
                return DirectiveOutcome(action_id=issued.id, outcome="rejected", reason=reason)
            usage = usage_of(answer.body) if answer.whole else None
            tokens = usage.prompt_tokens if usage else None
            return DirectiveOutcome(action_id=issued.id, outcome="applied", tokens=tokens)
        finally:
            answer.close()

    async def _ask(self, engine: _Engine, call: Outgoing) -> Answer | None:
        """Sends a warm-up, once more without priority if that was refused; None if there can be none."""
        url = engine.config.url
        if self._priorities.may_try(engine.name):
            request = warm_up_of(call, LOWEST_PRIORITY)
            if request is None:
                return None
            answer = await ask(self._sessions, url, request, timeout_s=self._timeout_s)
            if answer.status < 400:
                self._priorities.accepted(engine.name)
            if not refuses_priority(answer):
                return answer
            answer.close()
            self._priorities.refused(engine.name)
        request = warm_up_of(call, None)
        if request is None:
            return None
        return await ask(self._sessions, url, request, timeout_s=self._timeout_s)


def warm_up_of(call: Outgoing, priority: int | None) -> Outgoing | None:
    """Returns the request that computes the prompt of a call; None if its body cannot be added to."""
    headers = [item for item in without_priority(call.headers) if item[0].lower() != HINTS_HEADER]
    encoded = any(name.lower() == "content-encoding" for name, _ in headers)
    if call.body is None or encoded or not is_plain_json_object(call.body):
        return None
    fields = dict(_SHORT[unquote(call.path.partition("?")[0])])
    if priority is not None:
        fields["priority"] = priority
    fields |= {name: value for name, value in _IN_THE_WAY.items() if b'"%s"' % name.encode() in call.body}
    headers.append((WARM_UP_HEADER, "1"))
    return Outgoing(call.method, call.path, tuple(headers), splice(call.body, fields))
