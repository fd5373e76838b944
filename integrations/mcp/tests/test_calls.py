"""What a client's calls of tools look like to the servers that run models."""

import asyncio
import copy
from typing import Any

import fastmcp
import pytest
from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context
from mcp_types import InputRequiredResult

from llmd_agents.client import META_KEY, program, tool_call
from llmd_agents.hints import ToolFinished, ToolStarted
from llmd_agents.testing import Reply, ToolCall, recording_server
from llmd_agents_mcp import attach
from tests.clients import listed, models, to
from tests.servers import KINDS, over_http, server

QUESTION: Any = [{"role": "user", "content": "?"}]


async def step(model: Any, run: Any, kind: str) -> Any:
    with run.label(kind=kind):
        return await model.chat.completions.create(model="m", messages=QUESTION)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_calls_at_the_same_time(client: str, kind: str) -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await step(model, run, "plan")
            await asyncio.gather(*(session.call_tool("summarize", {"text": "x"}) for _ in range(4)))
            await step(model, run, "write")

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(to(client, url), recording.base_url))
        graph = recording.graph()
    graph.assert_edges({"plan": ["read"], "read": ["shorten"], "shorten": ["write"]})
    edges = sorted((one.kind, other.kind) for one, other in graph.edges)
    assert edges == sorted([("plan", "read"), ("read", "shorten"), ("shorten", "write")] * 4)
    graph.assert_tools(["summarize"] * 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_a_tool_that_asks_no_model_beside_one_that_does(client: str, kind: str) -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await step(model, run, "plan")
            await asyncio.gather(
                session.call_tool("search", {"query": "x"}), session.call_tool("summarize", {"text": "x"})
            )
            await step(model, run, "write")
            await session.call_tool("search", {"query": "x"})
            await step(model, run, "sign")

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(to(client, url), recording.base_url))
        graph = recording.graph()
        named = {step.kind: step.parents for step in graph.steps}
    graph.assert_shape("plan > fork(read > shorten) > write > sign")
    edges = sorted((one.kind, other.kind) for one, other in graph.edges)
    assert edges == sorted([("plan", "read"), ("read", "shorten"), ("shorten", "write"), ("write", "sign")])
    assert len(named["write"]) == len(named["sign"]) == 1
    graph.assert_tools({"search": 2, "summarize": 1})
    assert {fork.name: fork.joined for fork in graph.forks} == {"search": False, "summarize": True}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_that_asks_a_model_and_then_the_client(kind: str) -> None:
    """What it says at last it says of its second half, in which it made no step."""
    made = server(kind, "http://127.0.0.1:9")

    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:

            @made.tool()
            async def order(ctx: (fastmcp.Context if kind == "fastmcp" else Context)) -> Any:  # type: ignore[valid-type]
                if ctx.request_state is None:
                    async with models(base_url) as own:
                        await own.completions.create(model="m", prompt="check")
                    return InputRequiredResult(request_state="asked")
                return "ordered"

            await step(model, run, "plan")
            result = await session.call_tool("order", {})
            assert result.content[0].text == "ordered"
            await step(model, run, "write")

    with recording_server() as recording, over_http(made) as url:
        asyncio.run(main(to("sdk", url), recording.base_url))
        graph = recording.graph()
    graph.assert_edges({"plan": ["step"], "step": ["write"]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_a_tool_that_fails(client: str, kind: str) -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await step(model, run, "plan")
            if client == "fastmcp":
                with pytest.raises(fastmcp.exceptions.ToolError, match=r"fail|no such page"):
                    await session.call_tool("fail", {"text": "x"})
            else:
                result = await session.call_tool("fail", {"text": "x"})
                assert result.is_error
            await step(model, run, "write")

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(to(client, url), recording.base_url))
        graph = recording.graph()
    graph.assert_edges({"plan": ["try"], "try": ["write"]})
    assert [call.outcome for call in graph.tools] == ["error"]
    assert {branch.id: branch.outcome for branch in graph.branches}["h1.0"] == "error"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", KINDS)
def test_a_call_that_is_cancelled(client: str, kind: str) -> None:
    async def main(session: Any, base_url: str, recording: Any) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await step(model, run, "plan")
            call = asyncio.create_task(session.call_tool("wait", {"text": "x"}))
            while len(recording.calls) < 2:  # noqa: ASYNC110  (another thread's)
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await step(model, run, "write")

    with recording_server() as recording:
        with over_http(server(kind, recording.base_url)) as url:
            asyncio.run(main(to(client, url), recording.base_url, recording))
        graph = recording.graph()
    graph.assert_edges({"plan": ["begin"], "begin": ["write"]})
    assert [call.outcome for call in graph.tools] == ["cancelled"]


def test_what_a_model_asks_for_is_foretold_at_once() -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await listed(session)
            reply = await step(model, run, "act")
            (asked,) = reply.choices[0].message.tool_calls
            await session.call_tool(asked.function.name, {"query": "x"})
            await step(model, run, "write")

    answer = Reply(calls=[ToolCall("search", {"query": "x"}, id="call-7")])
    with recording_server(answer, "done") as recording, over_http(server("sdk", recording.base_url)) as url:
        asyncio.run(main(to("sdk", url), recording.base_url))
        recording.settle()
        told = [event for event in recording.events if isinstance(event, ToolStarted | ToolFinished)]
        arrived = [type(event).__name__ for event in recording.events]
    started, finished = told
    assert isinstance(started, ToolStarted)
    assert (started.call, started.expected, started.result_lifetime) == ("call-7", 3, 60)
    assert (finished.call, finished.outcome) == ("call-7", "ok")  # type: ignore[union-attr]
    # It is told before the tool is called.
    assert arrived.index("ToolStarted") < arrived.index("ForkDeclared")


def test_what_results_say_is_enough() -> None:
    """As for an application that knows its tools, and never asks for their list."""

    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await step(model, run, "plan")
            for _ in range(2):
                await session.call_tool("search", {"query": "x"})

    with recording_server() as recording, over_http(server("fastmcp", recording.base_url)) as url:
        asyncio.run(main(to("sdk", url), recording.base_url))
        recording.settle()
        told = [event for event in recording.events if isinstance(event, ToolStarted)]
    assert [event.expected for event in told] == [None, 3]


def test_what_the_developer_declares_wins() -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            await listed(session)
            await step(model, run, "plan")
            with tool_call("search", expected=9):  # the same call, told of by the developer
                await session.call_tool("search", {"query": "x"})
            async with run.fork(2, name="two") as fork:
                await fork.map(lambda text: session.call_tool("summarize", {"text": text}), ["a", "b"])
            with run.hand_over("mine") as handed:
                await session.call_tool("summarize", {"text": "c"}, meta=handed.meta)
            await step(model, run, "write")

    with recording_server() as recording, over_http(server("sdk", recording.base_url)) as url:
        asyncio.run(main(to("sdk", url), recording.base_url))
        graph = recording.graph()
        told = [event for event in recording.events if isinstance(event, ToolStarted)]
    assert [event.expected for event in told if event.tool == "search"] == [9]
    graph.assert_tools({"search": 1, "summarize": 3})
    names = sorted(fork.name or "" for fork in graph.forks)
    assert names == ["mine", "search", "summarize", "summarize", "two"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_members_of_meta_stay(kind: str) -> None:
    seen: list[dict[str, Any]] = []
    made = server(kind, "http://127.0.0.1:9")

    if kind == "sdk":
        from mcp.server.mcpserver import Context

        @made.tool()
        async def look(ctx: Context[Any, Any]) -> str:
            seen.append(dict(ctx.request_context.meta or {}))
            return "seen"
    else:
        from fastmcp import Context as FastContext

        @made.tool()
        async def look(ctx: FastContext) -> str:
            assert ctx.request_context is not None
            seen.append(dict(ctx.request_context.meta or {}))
            return "seen"

    given = {"traceparent": f"00-{1:032x}-{1:016x}-01", "baggage": "shop=1", "mine": {"a": 1}}

    async def main(client: Any) -> None:
        async with client:
            await client.call_tool("look", {}, meta=given)
            async with program("p"):
                await client.call_tool("look", {}, meta=given)

    with over_http(made) as url:
        asyncio.run(main(to(kind, url)))
    outside, inside = seen
    assert META_KEY not in outside
    assert isinstance(inside[META_KEY], str)
    for meta in seen:
        assert {name: meta[name] for name in given} == given
    assert list(given) == ["traceparent", "baggage", "mine"]  # nor is what the application gave changed


def test_sessions_and_copies_are_attached_once() -> None:
    async def main(url: str, base_url: str) -> None:
        async with (
            models(base_url) as model,
            streamable_http_client(url) as streams,
            ClientSession(streams[0], streams[1]) as session,
        ):
            assert attach(attach(session)) is session
            assert isinstance(session, ClientSession)
            await session.initialize()
            async with program("session"):
                await model.completions.create(model="m", prompt="x")
                await session.call_tool("search", {"query": "x"})
        async with models(base_url) as model, attach(Client(url)) as client:
            attach(client.session)
            async with program("client and session"):
                await model.completions.create(model="m", prompt="x")
                await client.call_tool("search", {"query": "x"})
        first = attach(attach(fastmcp.Client(url)))
        assert type(first).__name__ == "Client"
        second, third = first.new(), copy.copy(first)
        async with models(base_url) as model, second, third, program("copies"):
            await model.completions.create(model="m", prompt="x")
            await second.call_tool("search", {"query": "x"})
            await third.call_tool("search", {"query": "x"})

    with recording_server() as recording, over_http(server("sdk", recording.base_url)) as url:
        asyncio.run(main(url, recording.base_url))
        graphs = {graph.name: graph for graph in recording.graphs()}
    for name, calls in (("session", 1), ("client and session", 1), ("copies", 2)):
        graphs[name].assert_tools(["search"] * calls)
        assert len(graphs[name].forks) == calls


def test_what_cannot_be_attached() -> None:
    with pytest.raises(TypeError, match="a client or session of mcp or fastmcp is expected, not object"):
        attach(object())
