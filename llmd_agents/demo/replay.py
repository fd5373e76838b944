"""Replays recorded coding-agent sessions as programs, over HTTP, through client, router and engines."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import openai

from llmd_agents.bench import SessionText
from llmd_agents.client import instrument, program, tool_call

from .counters import EngineCounters, engine_counters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmd_agents.bench import CodingSession, Subagent, Turn
    from llmd_agents.client import Run

DEFAULT_MAX_GAP_SECONDS = 3600.0
REQUEST_TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How sessions are replayed.

    Attributes:
        speed: gaps between calls are divided by it.
        hints: whether the client declares programs, branches and tools.
        max_gap_s: longer gaps (a night's sleep) are cut to this, before division.
    """

    speed: float = 1.0
    hints: bool = True
    max_gap_s: float = DEFAULT_MAX_GAP_SECONDS


@dataclass(slots=True)
class ReplayReport:
    """What came of a replay. Token counts at this level are the client's own."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    edges: int = 0
    branches: int = 0
    engines: list[EngineCounters] = field(default_factory=list)
    first_error: str | None = None

    def disagreement(self) -> str | None:
        """Returns how the engines' counters differ from the client's, if they do."""
        for name in ("prompt_tokens", "cached_tokens"):
            theirs = sum(getattr(engine, name) for engine in self.engines)
            if theirs != (mine := getattr(self, name)):
                return f"the engines count {theirs:,} {name}, the client {mine:,}"
        return None


async def replay(
    sessions: Sequence[CodingSession],
    router: str,
    engines: Sequence[str],
    options: ReplayOptions,
    on_call: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Runs sessions, all at once, each as one program.

    Args:
        router: base URL, without `/v1`.
        engines: base URLs of the engines behind it, whose counters are read before and after.
        on_call: called after each model call.

    Raises:
        httpx.HTTPError: if an engine's counters cannot be read.
    """
    report = ReplayReport()
    async with httpx.AsyncClient(timeout=30.0) as http:
        before = [await engine_counters(http, url) for url in engines]
        async with openai.AsyncOpenAI(
            base_url=f"{router}/v1", api_key="replay", timeout=REQUEST_TIMEOUT_SECONDS
        ) as client:
            if options.hints:
                instrument(client)
            players = [_Player(client, session, options, report, on_call) for session in sessions]
            async with asyncio.TaskGroup() as tasks:
                for player in players:
                    tasks.create_task(player.play())
        after = [await engine_counters(http, url) for url in engines]
        report.engines = [late - early for early, late in zip(before, after, strict=True)]
        for player in players:
            if player.program_id is not None:
                await _count_graph(http, router, player.program_id, report)
    return report


async def _count_graph(http: httpx.AsyncClient, router: str, program_id: str, report: ReplayReport) -> None:
    response = await http.get(f"{router}/v1/agent/programs/{program_id}")
    if response.status_code == 200:
        graph = response.json()
        report.steps += len(graph["steps"])
        report.edges += len(graph["edges"])
        report.branches += len(graph["branches"])


class _Player:
    """Plays one session."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        session: CodingSession,
        options: ReplayOptions,
        report: ReplayReport,
        on_call: Callable[[], None],
    ) -> None:
        self.program_id: str | None = None
        self._client = client
        self._session = session
        self._options = options
        self._report = report
        self._on_call = on_call
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
        report = self._report
        report.requests += 1
        # The messages go past the SDK's own rewriting, which would be most of the time that a call takes.
        body: dict[str, Any] = {"messages": prompt.messages, "ignore_eos": True, **prompt.extra_body}
        try:
            reply = await self._client.chat.completions.create(
                model=turn.model, messages=[], max_tokens=max(turn.output_tokens, 1), extra_body=body
            )
        except openai.OpenAIError as error:
            report.failed += 1
            report.first_error = report.first_error or str(error)
        else:
            usage = reply.usage
            if usage is not None:
                report.prompt_tokens += usage.prompt_tokens
                details = usage.prompt_tokens_details
                report.cached_tokens += (details.cached_tokens or 0) if details else 0
        self._on_call()
