"""Runs of the SDK in tests, and the edges that servers were told of."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from agents import Agent, RunConfig, Runner, set_default_openai_api, set_default_openai_client
from openai import AsyncOpenAI

from llmd_agents import instrument
from llmd_agents.testing import Line, ProgramGraph, RecordingServer, Reply, ToolCall


def asks(agent: str, *tools: str) -> Line:
    """A line by which an agent's model asks for these tools, all at once."""
    return Line(Reply(calls=[ToolCall(name, {"input": "go on"}) for name in tools]), agent=agent)


def says(agent: str, times: int = 1) -> Line:
    return Line(f"{agent} is done", agent=agent, times=times)


@asynccontextmanager
async def calling(server: RecordingServer, *, responses: bool = False) -> AsyncIterator[AsyncOpenAI]:
    """Lets the SDK's default models call the server, with hints."""
    async with instrument(AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)) as client:
        set_default_openai_client(client, use_for_tracing=False)
        set_default_openai_api("responses" if responses else "chat_completions")
        yield client


def within(server: RecordingServer, main: Callable[[], Awaitable[Any]], *, responses: bool = False) -> Any:
    """Runs a coroutine function whose models call the server; returns what it returns."""

    async def run_all() -> Any:
        async with calling(server, responses=responses):
            return await main()

    return asyncio.run(run_all())


def ran(
    server: RecordingServer,
    agent: Agent[Any],
    *,
    streamed: bool = False,
    responses: bool = False,
    session: Any = None,
    max_turns: int = 10,
    **options: Any,
) -> Any:
    """Returns the final output of an agent's run, whole or streamed."""

    async def main() -> Any:
        settings: dict[str, Any] = {
            "run_config": RunConfig(**options),
            "session": session,
            "max_turns": max_turns,
        }
        if not streamed:
            return (await Runner.run(agent, "begin", **settings)).final_output
        result = Runner.run_streamed(agent, "begin", **settings)
        async for _ in result.stream_events():
            pass
        return result.final_output

    return within(server, main, responses=responses)


def edges(graph: ProgramGraph) -> set[str]:
    """Returns all edges, each step named by its agent and how many steps that had made before it, from 1."""
    name = names(graph)
    return {f"{name[before.id]} > {name[after.id]}" for before, after in graph.edges}


def names(graph: ProgramGraph) -> dict[str, str]:
    made: Counter[str] = Counter()
    names: dict[str, str] = {}
    for step in graph.steps:
        agent = step.agent or "-"
        made[agent] += 1
        names[step.id] = f"{agent}{made[agent]}"
    return names


def branches(graph: ProgramGraph) -> dict[str, str]:
    """Returns which branch each step is on."""
    name = names(graph)
    return {name[step.id]: step.branch for step in graph.steps}
