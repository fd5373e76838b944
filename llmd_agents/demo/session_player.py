"""Plays a recorded coding-agent session as one program."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from llmd_agents.bench import SessionText
from llmd_agents.client import program, tool_call

if TYPE_CHECKING:
    from llmd_agents.bench import CodingSession, Subagent, Turn
    from llmd_agents.client import Run

    from .caller import Caller
    from .replay_report import ReplayOptions


class SessionPlayer:
    """Plays one session."""

    def __init__(self, caller: Caller, session: CodingSession, options: ReplayOptions) -> None:
        self.program_id: str | None = None
        self._caller = caller
        self._session = session
        self._options = options
        self._text = SessionText(session.id, session.block_size)

    async def play(self) -> None:
        if not self._options.hints:
            await self._play_events(None)
            return
        async with program("coding-session") as run:
            self.program_id = run.id
            await self._play_events(run)

    async def _play_events(self, run: Run | None) -> None:
        main = [event for event in self._session.events if not isinstance(event, tuple)]
        following = dict(zip(map(id, main), main[1:], strict=False))
        previous: Turn | None = None
        async with asyncio.TaskGroup() as background:
            for event in self._session.events:
                if isinstance(event, tuple):
                    subagents = self._play_fork(run, event)
                    if event[0].awaited:
                        await subagents
                    else:
                        background.create_task(subagents)
                    continue
                await self._pause("tool", event.gap_s)
                head = self._session.head_tokens
                await self._call(event, previous, following.get(id(event)), head)
                previous = event

    async def _play_fork(self, run: Run | None, subagents: tuple[Subagent, ...]) -> None:
        if run is None:
            await asyncio.gather(*(self._play_subagent(subagent) for subagent in subagents))
            return
        async with run.fork(len(subagents), name=subagents[0].name) as fork:
            await fork.map(self._play_subagent, subagents)

    async def _play_subagent(self, subagent: Subagent) -> None:
        await self._pause(None, subagent.delay_s)
        previous: Turn | None = None
        for turn, upcoming in zip(subagent.turns, (*subagent.turns[1:], None), strict=True):
            await self._pause("tool", turn.gap_s)
            await self._call(turn, previous, upcoming, subagent.head_tokens)
            previous = turn

    async def _pause(self, tool: str | None, seconds: float) -> None:
        seconds = min(seconds, self._options.max_gap_s) / self._options.speed
        with tool_call(tool) if tool and seconds else contextlib.nullcontext():
            await asyncio.sleep(seconds)

    async def _call(self, turn: Turn, previous: Turn | None, upcoming: Turn | None, head_tokens: int) -> None:
        prompt = self._text.prompt(
            turn.blocks,
            turn.input_tokens,
            head_tokens=head_tokens,
            reply_tokens=previous.output_tokens if previous else 0,
            next_blocks=upcoming.blocks if upcoming else (),
        )
        await self._caller.call(turn.model, prompt, turn.output_tokens)
