"""Peers that know nothing of the adapter, and peers that mean harm: a call of a tool is what it was."""

import asyncio
import math
from typing import Any

import fastmcp
import pytest
from fastmcp.server import create_proxy
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from llmd_agents.client import META_KEY, continue_program, current_meta, program
from llmd_agents.testing import recording_server
from llmd_agents_mcp import LlmdAgentsMiddleware, attach, tool_hints
from llmd_agents_mcp.sent_call import learn
from llmd_agents_mcp.tool_hints import EXPECTED_MAX_S, LIFETIME_MAX_S, SIGMA_MAX, ToolHints, read_hints
from tests.clients import listed, models, to
from tests.servers import KINDS, over_http, server

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    1e308,
    math.nan,
    "text",
    "a" * 1_000_000,
    [],
    [1, 2],
    {},
    {"expected_duration_ms": "soon", "sigma": [], "result_ttl_ms": {}, "cacheable": 1},
    {"expected_duration_ms": -1, "sigma": -1, "result_ttl_ms": -1},
    {"expected_duration_ms": math.nan, "sigma": math.nan, "result_ttl_ms": math.nan},
    {"expected_duration_ms": math.inf, "sigma": math.inf, "result_ttl_ms": math.inf},
    {"expected_duration_ms": 10**400, "sigma": 10**400, "result_ttl_ms": 10**400},
    {"expected_duration_ms": True, "result_ttl_ms": False},
    {str(number): number for number in range(10_000)},
    {"program": {"id": "x"}, "step": None},
    {"steps": "no"},
    {"steps": 0},
    {"steps": None},
    'v=1, program="p\x00"',
]


@pytest.mark.parametrize("client", KINDS)
def test_a_server_that_says_nonsense(client: str) -> None:
    nonsense: Any = None
    made = MCPServer("hostile")

    @made.tool(meta={META_KEY: {"expected_duration_ms": -5, "sigma": "x"}})
    async def search(query: str) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="found")], _meta={META_KEY: nonsense})

    async def main(session: Any) -> None:
        nonlocal nonsense
        async with session, program("p"):
            assert set(await listed(session)) == {"search"}
            for nonsense in HOSTILE:  # noqa: B007  (the tool's to return)
                result = await session.call_tool("search", {"query": "x"})
                assert result.content[0].text == "found"

    in_process: Any = fastmcp.Client(made) if client == "fastmcp" else Client(made)
    asyncio.run(main(attach(in_process)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_says_nonsense(kind: str) -> None:
    async def main(url: str) -> None:
        async with fastmcp.Client(url) as stranger:
            for nonsense in HOSTILE:
                result = await stranger.call_tool("summarize", {"text": "x"}, meta={META_KEY: nonsense})
                assert result.content[0].text == "short"

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(url))
        assert len(recording.calls) == 2 * len(HOSTILE)
        assert not recording.rejected


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_without_the_adapter(kind: str) -> None:
    async def main(url: str, base_url: str) -> None:
        async with models(base_url) as model, Client(url) as stranger, program("p"):
            await model.completions.create(model="m", prompt="x")
            result = await stranger.call_tool("summarize", {"text": "x"})
            assert not result.is_error

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(url, recording.base_url))
        graph = recording.graph("p")
    assert len(graph.steps) == 1
    assert not graph.tools
    assert not graph.forks


@pytest.mark.parametrize("client", KINDS)
def test_a_server_without_the_adapter(client: str) -> None:
    async def main(session: Any, base_url: str) -> None:
        async with models(base_url) as model, session, program("p") as run:
            with run.label(kind="plan"):
                await model.completions.create(model="m", prompt="x")
            await session.call_tool("summarize", {"text": "x"})
            with run.label(kind="write"):
                await model.completions.create(model="m", prompt="x")

    with recording_server() as recording, over_http(server("plain", recording.base_url)) as url:
        asyncio.run(main(to(client, url), recording.base_url))
        graph = recording.graph("p")
    graph.assert_edges({"plan": ["write"]})
    graph.assert_tools(["summarize"])


def test_a_handed_over_program_is_taken_up_once_however_deep_its_call_is_passed_on() -> None:
    """As where a FastMCP server is mounted in another, and both have the middleware."""

    async def main(base_url: str) -> None:
        inner, outer = server("fastmcp", base_url), server("fastmcp", base_url)
        outer.mount(inner, namespace="inner")
        async with models(base_url) as model, attach(fastmcp.Client(outer)) as client, program("p") as run:
            with run.label(kind="plan"):
                await model.completions.create(model="m", prompt="x")
            await client.call_tool("inner_summarize", {"text": "x"})
            with run.label(kind="write"):
                await model.completions.create(model="m", prompt="x")

    with recording_server() as recording:
        asyncio.run(main(recording.base_url))
        graph = recording.graph("p")
        ended = [event.branch for event in recording.events if event.type == "branch_ended"]
    graph.assert_edges({"plan": ["read"], "read": ["shorten"], "shorten": ["write"]})
    assert ended == ["h1.0"]


@pytest.mark.parametrize("kind", [*KINDS, "plain"])
def test_a_server_that_passes_calls_on_says_what_the_one_behind_it_says(kind: str) -> None:
    async def main(url: str, base_url: str) -> None:
        front: Any = create_proxy(url, name="front")
        front.add_middleware(LlmdAgentsMiddleware())
        async with models(base_url) as model, attach(fastmcp.Client(front)) as client, program("p") as run:
            with run.label(kind="plan"):
                await model.completions.create(model="m", prompt="x")
            await client.call_tool("search", {"query": "x"})
            await client.call_tool("summarize", {"text": "x"})
            with run.label(kind="write"):
                await model.completions.create(model="m", prompt="x")

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(url, recording.base_url))
        graph = recording.graph("p")
    silent = kind == "plain"
    graph.assert_edges(
        {"plan": ["write"]} if silent else {"plan": ["read"], "read": ["shorten"], "shorten": ["write"]}
    )
    assert {fork.name: fork.joined for fork in graph.forks} == {"search": False, "summarize": not silent}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("expected_duration_ms", "sigma", "result_ttl_ms", "cacheable"), JSON)
)


@given(JSON | MEMBERS, st.text(max_size=200))
@settings(max_examples=30)
def test_whatever_is_said_is_within_bounds(said: Any, name: str) -> None:
    hints = read_hints({META_KEY: said})
    assert hints.expected is None or 0 <= hints.expected <= EXPECTED_MAX_S
    assert hints.sigma is None or 0 <= hints.sigma <= SIGMA_MAX
    assert hints.result_lifetime is None or 0 <= hints.result_lifetime <= LIFETIME_MAX_S
    assert hints.cacheable in (None, True, False)
    assert read_hints({META_KEY: hints.written()}).written().keys() == hints.written().keys()
    assert read_hints(said) is not None
    learn(name, {META_KEY: said})


def test_a_handed_over_program_is_read_from_its_own_member_only() -> None:
    from llmd_agents_mcp.served_call import handed_over

    with program("p"):
        meta = current_meta()
    assert handed_over(meta) == meta[META_KEY]
    assert handed_over({"x-llmd-hints": meta[META_KEY]}) is None
    assert handed_over(None) is None
    with continue_program(meta) as there:
        assert there.declared.name == "p"


@pytest.mark.parametrize(
    "arguments",
    [
        {"expected": -1},
        {"expected": math.nan},
        {"expected": "3s"},
        {"expected": EXPECTED_MAX_S + 1},
        {"sigma": 1},
        {"expected": 1, "sigma": 11},
        {"result_lifetime": LIFETIME_MAX_S * 2},
        {"cacheable": "yes"},
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_declared(arguments: Any) -> None:
    with pytest.raises(ValueError, match="expected is up to a day"):
        tool_hints(**arguments)


def test_durations_are_declared_to_the_digit() -> None:
    assert read_hints({META_KEY: ToolHints(0.0001234, 0.1).written()}) == ToolHints(0.0001234, 0.1)
