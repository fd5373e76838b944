"""What the developer declares beats what is inferred."""

import asyncio
from typing import Any

from agents import Agent, RunConfig, Runner, function_tool

from llmd_agents import Run, program, tool
from llmd_agents.testing import recording_server

from .told import asks, branches, calling, edges, ran, says, within


def test_runs_within_a_program_are_parts_of_it() -> None:
    async def main() -> None:
        async with program("declared"):
            await Runner.run(Agent[None]("one"), "begin", run_config=RunConfig(workflow_name="inferred"))
            result = Runner.run_streamed(Agent[None]("two"), "begin")
            async for _ in result.stream_events():
                pass

    with recording_server(says("one"), says("two")) as server:
        within(server, main)
        graph = server.graph("declared")
    graph.assert_shape("one > two")


def test_a_fork_around_runs() -> None:
    async def main() -> None:
        async with program("declared") as run:
            await Runner.run(Agent[None]("first"), "begin")
            async with run.fork(2, name="views") as fork:
                await fork.map(view, ["north", "south"])
            await Runner.run(Agent[None]("last"), "begin")

    async def view(name: str) -> None:
        await Runner.run(Agent[None](name, handoffs=[Agent[None](f"{name}_end")]), "begin")

    with recording_server(
        says("first"),
        asks("north", "transfer_to_north_end"),
        says("north_end"),
        asks("south", "transfer_to_south_end"),
        says("south_end"),
        says("last"),
    ) as server:
        within(server, main)
        graph = server.graph("declared")
    graph.assert_shape("first > fork(north > north_end | south > south_end) > last")


def test_a_fork_within_a_tool() -> None:
    declared: list[Run] = []

    @function_tool
    async def ask_around() -> str:
        async with declared[0].fork(3, name="around") as fork:
            return "".join(await fork.map(ask, ["a", "b", "c"], limit=1))

    async def ask(name: str) -> str:
        return str((await Runner.run(Agent[None](name), "begin")).final_output)

    async def main() -> None:
        async with program("declared") as run:
            declared.append(run)
            await Runner.run(Agent[None]("chief", tools=[ask_around]), "begin")

    lines = asks("chief", "ask_around"), says("a"), says("b"), says("c"), says("chief")
    with recording_server(*lines) as server:
        within(server, main)
        graph = server.graph("declared")
    graph.assert_shape("chief > fork(a | b | c) > chief")
    graph.assert_tools(["ask_around"])


def test_a_program_within_a_tool_is_a_program_of_its_own() -> None:
    @function_tool
    async def start() -> str:
        async with program("inner"):
            return str((await Runner.run(Agent[None]("inside"), "begin")).final_output)

    with recording_server(asks("chief", "start"), says("inside"), says("chief")) as server:
        ran(server, Agent[None]("chief", tools=[start]), workflow_name="outer")
        assert server.graph("inner").shape() == "inside"
        assert server.graph("outer").shape() == "chief > chief"


def test_labels_of_the_developer_stay() -> None:
    async def main() -> None:
        async with program("declared") as run:
            with run.label(kind="plan", agent="mine"):
                await Runner.run(Agent[None]("theirs"), "begin")

    with recording_server("done") as server:
        within(server, main)
    (hints,) = server.hints
    assert (hints.step.kind, hints.step.agent) == ("plan", "mine")


def test_a_tool_that_the_developer_has_marked_is_counted_once() -> None:
    @function_tool
    @tool(expected="7s")
    async def look_up(query: str) -> str:
        return f"nothing about {query}"

    agent = Agent[None]("agent", tools=[look_up])
    with recording_server(asks("agent", "look_up"), says("agent")) as server:
        ran(server, agent)
        graph = server.graph()
        begun = [event for event in server.events if event.type == "tool_started"]
    graph.assert_tools(["look_up"])
    assert [(event.tool, event.expected) for event in begun] == [("look_up", 7.0)]


def test_calls_of_an_own_client_in_a_tool_are_steps_of_the_tool() -> None:
    async def main(client: Any) -> None:
        @function_tool
        async def summarize() -> str:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "sum"}])
            return "short"

        await Runner.run(Agent[None]("chief", tools=[summarize]), "begin")

    async def with_client() -> None:
        async with calling(server) as client:
            await main(client)

    with recording_server(asks("chief", "summarize"), "short", says("chief")) as server:
        asyncio.run(with_client())
        graph = server.graph()
    graph.assert_shape("chief > chief > chief")
    assert edges(graph) == {"chief1 > chief2", "chief2 > chief3"}
    assert set(branches(graph).values()) == {"main"}
