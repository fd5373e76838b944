"""Background load: recorded sessions in a closed loop, each a program of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import openai

from llmd_agents import program, tool_call

from .background_sessions import Opening, ScaledSession, SessionMessages
from .program_calls import MODEL

FILLING_AT_ONCE: Final = 8
"""First calls under way at a time."""


@dataclass
class Heard:
    """What the background's calls took; token counts are prompts'."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    refused: int = 0

    def copy(self) -> "Heard":
        return Heard(**vars(self))


@dataclass
class Background:
    """Sessions that go on until their tasks are cancelled.

    Args:
        client: makes the calls.
        opened: the sessions that are open at the start, by place; when one ends, another takes its place.
        speed: recorded pauses are divided by it.
        seed: keeps the texts of trials apart.
    """

    client: openai.AsyncOpenAI
    opened: Sequence[Opening]
    speed: float
    seed: int
    heard: Heard = field(default_factory=Heard)

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        """Fills the engines' caches with the open sessions, then lets them go on while the block runs.

        Raises:
            openai.OpenAIError: if a call fails, other than by being refused.
        """
        gate, filled = asyncio.Semaphore(FILLING_AT_ONCE), asyncio.Barrier(len(self.opened) + 1)
        async with asyncio.TaskGroup() as tasks:
            playing = [
                tasks.create_task(self._place(place, gate, filled)) for place in range(len(self.opened))
            ]
            await filled.wait()
            yield
            for task in playing:
                task.cancel()

    async def _place(self, place: int, gate: asyncio.Semaphore, filled: asyncio.Barrier) -> None:
        one = self.opened[place]
        await self._session(one.session, one.first, f"{self.seed}-{place}-0", (gate, filled))
        number = 0
        while True:
            number += 1
            following = self.opened[(place + number) % len(self.opened)].session
            await self._session(following, 0, f"{self.seed}-{place}-{number}", None)

    async def _session(
        self,
        session: ScaledSession,
        first: int,
        name: str,
        opening: tuple[asyncio.Semaphore, asyncio.Barrier] | None,
    ) -> None:
        text = SessionMessages(name, session)
        async with program("coding-session", id=f"coding-session-{name}"):
            for turn in session.turns[:first]:
                text.said(turn.blocks)
            for index, turn in enumerate(session.turns[first:]):
                messages = text.messages(turn.blocks)
                if not index and opening is not None:
                    gate, filled = opening
                    async with gate:
                        await self._call(messages, turn.reply_tokens)
                    await filled.wait()
                    continue
                with tool_call("tool"):
                    await asyncio.sleep(turn.pause_s / self.speed)
                if not await self._call(messages, turn.reply_tokens):
                    return

    async def _call(self, messages: list[dict[str, Any]], reply_tokens: int) -> bool:
        """Returns whether the call was answered; one that is too long after all is refused."""
        began = time.monotonic()
        try:
            answer = await self.client.chat.completions.create(
                model=MODEL,
                messages=[],
                max_tokens=reply_tokens,
                temperature=0,
                extra_body={"messages": messages, "ignore_eos": True},
            )
        except openai.BadRequestError:
            self.heard.refused += 1
            return False
        usage = answer.usage
        details = usage.prompt_tokens_details if usage else None
        self.heard.calls += 1
        self.heard.seconds += time.monotonic() - began
        self.heard.prompt_tokens += usage.prompt_tokens if usage else 0
        self.heard.cached_tokens += (details.cached_tokens or 0) if details else 0
        return True
