"""What the tests' applications are made of."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from llmd_agents.client import end_threads
from llmd_agents.testing import (
    Failure,
    Line,
    ProgramGraph,
    RecordingServer,
    Reply,
    ToolCall,
    recording_server,
)
from llmd_agents_pydantic_ai import ProgramHints

AnyAgent = Agent[None, Any]
MakeAgent = Callable[..., AnyAgent]


def provider(server: RecordingServer) -> OpenAIProvider:
    # No connection outlives its event loop, of which tests have many.
    http_client = DefaultAsyncHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))
    return OpenAIProvider(base_url=server.base_url, api_key="none", http_client=http_client)


def model(server: RecordingServer) -> OpenAIChatModel:
    return OpenAIChatModel("m", provider=provider(server))


def agents(server: RecordingServer) -> MakeAgent:
    """Returns what makes agents by name: with one model, and hints."""
    shared = model(server)

    def make(name: str, **more: Any) -> AnyAgent:
        return Agent(shared, name=name, capabilities=[ProgramHints()], **more)

    return make


@contextmanager
def served(*lines: Line | Reply | Failure | str) -> Iterator[RecordingServer]:
    """Runs a server; at the end, nothing that was sent may have been refused."""
    with recording_server(*lines) as server:
        yield server
        end_threads()
        server.settle()
        assert server.rejected == []
        assert not [call.ignored for call in server.calls if call.ignored]


@contextmanager
def own_loop() -> Iterator[None]:
    """The event loop that `run_sync` takes, for it closes none."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def asks(agent: str, *tools: str, **arguments: Any) -> Line:
    """A line in which an agent's model asks for tools, all with the same arguments."""
    return Line(Reply(calls=[ToolCall(tool, arguments) for tool in tools]), agent=agent)


def anyone(text: str = "fine") -> Line:
    """A line for whoever has no other."""
    return Line(text, times=None)


def edges(graph: ProgramGraph) -> Counter[tuple[str, str]]:
    """How often each label follows which."""
    return Counter((one.label, other.label) for one, other in graph.edges)


def tools(graph: ProgramGraph) -> list[tuple[str, str | None]]:
    return [(tool.name, tool.outcome) for tool in graph.tools]
