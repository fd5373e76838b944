"""Model calls that a tool makes are steps of the program that calls it, wherever the tool runs."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastmcp
import pytest
from fastmcp import Context as FastContext
from mcp import Client
from mcp.server.mcpserver import Context
from mcp_types import InputRequiredResult

from llmd_agents.client import META_KEY, program
from llmd_agents.hints import Lifetime, ToolStarted
from llmd_agents.testing import recording_server
from tests.clients import listed, models, to, to_process
from tests.servers import KINDS, over_http, server


@contextmanager
def connected(client: str, kind: str, transport: str, model_url: str) -> Iterator[Any]:
    """Yields a client of one kind, attached, to a server of another."""
    if transport == "stdio":
        yield to_process(client, kind, model_url)
        return
    with over_http(server(kind, model_url)) as url:
        yield to(client, url)


async def research(client: Any, base_url: str) -> str:
    """A step, a tool with two steps of its own, one with a fork, one without any, and a step.

    Returns:
        the program's id.
    """
    async with models(base_url) as model, client, program("research") as run:
        with run.label(kind="plan"):
            await model.completions.create(model="m", prompt="plan")
        await client.call_tool("summarize", {"text": "canary"})
        await client.call_tool("compare", {"text": "canary"})
        await client.call_tool("search", {"query": "canary"})
        with run.label(kind="write"):
            await model.completions.create(model="m", prompt="write")
    return run.id


@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_the_program_goes_on_in_the_tool(client: str, kind: str, transport: str) -> None:
    with recording_server() as recording:
        with connected(client, kind, transport, recording.base_url) as session:
            asyncio.run(research(session, recording.base_url))
        (graph,) = recording.graphs()
        assert graph.outcome == "ok"
        graph.assert_shape(
            "plan > fork(read > shorten) > fork(split > fork(2: step)) > write",
        )
        graph.assert_edges(
            {
                "plan": ["read"],
                "read": ["shorten"],
                "shorten": ["split"],
                "split": ["step"],
                "step": ["write"],
            }
        )
        assert sorted(fork.name or "" for fork in graph.forks) == ["compare", "search", "sides", "summarize"]
        graph.assert_tools(["summarize", "compare", "search"])
        assert {call.outcome for call in graph.tools} == {"ok"}
        assert not recording.rejected
        assert not [request for request in recording.requests if "canary" in request_text(request)]


def request_text(request: Any) -> str:
    return f"{request.headers} {request.body!r}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_what_is_declared_of_a_tool_is_told_and_foretold(client: str, kind: str) -> None:
    declared = {"expected_duration_ms": 3000, "sigma": 0.5, "result_ttl_ms": 60_000, "cacheable": True}

    async def main(session: Any, base_url: str) -> Any:
        async with models(base_url) as model, session:
            tools = await listed(session)
            async with program("p"):
                await model.completions.create(model="m", prompt="hello")
                return tools, await session.call_tool("search", {"query": "tides"})

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        tools, result = asyncio.run(main(to(client, url), recording.base_url))
        recording.settle()
        (started,) = [event for event in recording.events if isinstance(event, ToolStarted)]
    assert tools["search"][META_KEY] == declared
    assert tools["search"]["shop/colour"] == "blue"
    assert META_KEY not in tools["summarize"]  # nothing is known yet
    told = dict(result.meta[META_KEY])
    assert told.pop("duration_ms") >= 0
    assert told.pop("steps") is False
    assert told == declared
    assert (started.tool, started.expected, started.sigma) == ("search", 3, 0.5)
    assert started.result_lifetime == 60
    assert not isinstance(started.result_lifetime, Lifetime)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_to_the_client_is_no_result(kind: str) -> None:
    """A tool that asks for more input before it goes on: how soon it asks tells nothing."""

    async def main(made: Any) -> Any:
        client: Any = fastmcp.Client(made) if kind == "fastmcp" else Client(made)
        async with client:
            for _ in range(3):
                asked = await client.session.call_tool("order", {}, allow_input_required=True)
                assert isinstance(asked, InputRequiredResult)
            result = await client.session.call_tool("order", {}, request_state=asked.request_state)
            return result, await listed(client)

    made = server(kind, "http://127.0.0.1:9")

    @made.tool()
    async def order(ctx: (FastContext if kind == "fastmcp" else Context)) -> Any:  # type: ignore[valid-type]
        if ctx.request_state is None:
            return InputRequiredResult(request_state="asked")
        return "ordered"

    result, tools = asyncio.run(main(made))
    assert result.content[0].text == "ordered"
    assert set(result.meta[META_KEY]) == {"duration_ms"}
    assert META_KEY not in tools["order"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_server_has_learned_is_told(kind: str) -> None:
    async def main(session: Any) -> Any:
        async with session:
            results = [await session.call_tool("summarize", {"text": "tides"}) for _ in range(4)]
            return results, await listed(session)

    # In a process of its own, so that only the server can have learned it.
    with recording_server() as recording:
        results, tools = asyncio.run(main(to_process("sdk", kind, recording.base_url)))
    took = [result.meta[META_KEY].pop("duration_ms") for result in results]
    assert [set(result.meta[META_KEY]) for result in results] == [
        set(),
        set(),
        {"expected_duration_ms", "sigma"},
        {"expected_duration_ms", "sigma"},
    ]
    said = tools["summarize"][META_KEY]
    assert set(said) == {"expected_duration_ms", "sigma"}
    assert min(took) <= said["expected_duration_ms"] + 1
    assert said["expected_duration_ms"] <= max(took) + 1
