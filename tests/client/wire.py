"""Model calls without sockets: what each declares is kept, and so are the program's events."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmd_agents import attach
from llmd_agents.client.sender import Credential, httpx, use_sender
from llmd_agents.hints import BranchEnded, Event, Hints, Outcome, Step, decode_hints

ORIGIN = "http://wire.invalid"


class Wire:
    """Two instrumented HTTP clients, and what went over them.

    Attributes:
        hints: of each call, by its text; the calls of one text come in order.
        refused: texts that are answered with an error.
    """

    def __init__(self) -> None:
        self.hints: dict[str, list[Hints | None]] = {}
        self.events: list[Event] = []
        self.refused: set[str] = set()
        self._sync = attach(httpx.Client(transport=httpx.MockTransport(self._answer)))
        self._async = attach(httpx.AsyncClient(transport=httpx.MockTransport(self._answer_later)))

    def call(self, text: str) -> None:
        self._sync.post(f"{ORIGIN}/v1/chat/completions", json=_body(text))

    async def acall(self, text: str) -> None:
        await self._async.post(f"{ORIGIN}/v1/chat/completions", json=_body(text))

    def step(self, text: str) -> Step:
        """The one step of a text."""
        [hints] = self.hints[text]
        assert hints is not None
        return hints.step

    def parents(self, text: str) -> set[str]:
        """What a step depends on: texts of steps, ids of forks."""
        texts = {
            hints.step.id: text for text, calls in self.hints.items() for hints in calls if hints is not None
        }
        return {texts.get(parent, parent) for parent in self.step(text).parents}

    @property
    def told(self) -> list[str]:
        """The types of the events, in order."""
        return [event.type for event in self.events]

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """How branches ended; each once."""
        ended = [event for event in self.events if isinstance(event, BranchEnded)]
        assert len({event.branch for event in ended}) == len(ended)
        return {event.branch: event.outcome for event in ended}

    def _answer(self, request: Any) -> Any:
        text = json.loads(request.content)["messages"][0]["content"]
        header = request.headers.get("x-llmd-hints")
        self.hints.setdefault(text, []).append(None if header is None else decode_hints(header).hints)
        return httpx.Response(400 if text in self.refused else 200, json={})

    async def _answer_later(self, request: Any) -> Any:
        answer = self._answer(request)
        await asyncio.sleep(0)  # calls of several tasks overlap
        return answer

    # As a sender of events: nobody waits for it.

    idle = True

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        self.events.append(make())

    def hurry(self) -> None: ...

    def flush(self, timeout: float) -> bool:
        return True


def _body(text: str) -> Any:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


@contextmanager
def wired() -> Iterator[Wire]:
    wire = Wire()
    with use_sender(f"{ORIGIN}/v1/agent/events", wire), wire._sync:
        yield wire
