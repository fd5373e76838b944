"""Replays recorded sessions and programs over HTTP, through client, router and engines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import openai

from llmd_agents.bench import CodingSession, SessionText
from llmd_agents.client import instrument

from .caller import Caller
from .counters import engine_counters
from .program_player import ProgramPlayer
from .replay_report import ReplayOptions, ReplayReport
from .session_player import SessionPlayer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmd_agents.bench import Recording

__all__ = ["ReplayOptions", "ReplayReport", "replay"]

REQUEST_TIMEOUT_SECONDS = 900.0


async def replay(
    recordings: Sequence[Recording],
    router: str,
    engines: Sequence[str],
    options: ReplayOptions,
    on_call: Callable[[], None] = lambda: None,
) -> ReplayReport:
    """Runs recordings, all at once, each as one program.

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
            caller = Caller(client, report, on_call)
            players = _players(recordings, caller, options)
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


def _players(
    recordings: Sequence[Recording], caller: Caller, options: ReplayOptions
) -> list[SessionPlayer | ProgramPlayer]:
    texts: dict[str, SessionText] = {}
    players: list[SessionPlayer | ProgramPlayer] = []
    for recording in recordings:
        if isinstance(recording, CodingSession):
            players.append(SessionPlayer(caller, recording, options))
        else:
            text = texts.setdefault(recording.source, SessionText(recording.source, recording.block_size))
            players.append(ProgramPlayer(caller, recording, options, text))
    return players
