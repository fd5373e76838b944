"""Beside the adapter of another framework, a step is one step and a call of a tool is one call."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_ai.models.openai import OpenAIChatModel

from llmd_agents import program
from llmd_agents.testing import Line, RecordingServer

from .app import AnyAgent, agents, asks, edges, served, tools

sdk = pytest.importorskip("agents")
other = pytest.importorskip("llmd_agents_openai_agents")


@pytest.fixture(autouse=True)
def both_adapters() -> Iterator[None]:
    sdk.set_trace_processors([other.ProgramProcessor()])
    yield
    sdk.set_trace_processors([])


async def asked_in_the_sdk(clerk: AnyAgent, name: str, *its_tools: Any) -> str:
    """Runs an agent of the Agents SDK, on the very client that the agents here use."""
    assert isinstance(clerk.model, OpenAIChatModel)
    models = other.model_provider(clerk.model.client, use_responses=False)
    agent = sdk.Agent(name, tools=list(its_tools))
    result = await sdk.Runner.run(agent, "go", run_config=sdk.RunConfig(model="m", model_provider=models))
    return str(result.final_output)


def clerk_of(server: RecordingServer) -> AnyAgent:
    clerk = agents(server)("clerk")

    @clerk.tool_plain
    def look_up() -> str:
        return "found"

    return clerk


def test_an_agent_in_a_tool_of_the_other_framework() -> None:
    with served(
        asks("chief", "ask_clerk"),
        asks("clerk", "look_up"),
        Line("here", agent="clerk"),
        Line("done", agent="chief"),
    ) as server:
        clerk = clerk_of(server)

        async def ask_clerk() -> str:
            return str((await clerk.run("?")).output)

        async def main() -> None:
            async with program("both"):
                assert await asked_in_the_sdk(clerk, "chief", sdk.function_tool(ask_clerk)) == "done"

        asyncio.run(main())
        graph = server.graph("both")
        graph.assert_shape("chief > clerk > clerk > chief")
        assert Counter(tools(graph)) == {("ask_clerk", "ok"): 1, ("look_up", "ok"): 1}


def test_agents_of_the_other_framework_in_tools() -> None:
    with served(
        asks("lead", "north", "south"),
        Line("cold", agent="northerner"),
        Line("warm", agent="southerner"),
        Line("done", agent="lead"),
    ) as server:
        lead = agents(server)("lead")

        @lead.tool_plain
        async def north() -> str:
            return await asked_in_the_sdk(lead, "northerner")

        @lead.tool_plain
        async def south() -> str:
            return await asked_in_the_sdk(lead, "southerner")

        asyncio.run(lead.run("go"))
        graph = server.graph("lead")
        assert edges(graph) == {
            ("lead", "northerner"): 1,
            ("lead", "southerner"): 1,
            ("northerner", "lead"): 1,
            ("southerner", "lead"): 1,
        }
        assert Counter(tools(graph)) == {("north", "ok"): 1, ("south", "ok"): 1}
