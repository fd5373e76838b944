"""Servers are told of all the edges that there are, and of no others, for all that the SDK puts together."""

import asyncio
import threading
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    Runner,
    ToolExecutionConfig,
    agent_span,
    function_tool,
    generation_span,
    guardrail_span,
    trace,
)

from llmd_agents.testing import Line, Reply, ToolCall, recording_server

from .told import asks, branches, calling, edges, ran, says

streamed_or_not = pytest.mark.parametrize("streamed", [False, True])
any_api = pytest.mark.parametrize("responses", [False, True])


@streamed_or_not
@any_api
def test_handoffs_are_a_chain_on_one_branch(streamed: bool, responses: bool) -> None:
    last = Agent[None]("last")
    middle = Agent[None]("middle", handoffs=[last])
    first = Agent[None]("first", handoffs=[middle])
    lines = asks("first", "transfer_to_middle"), asks("middle", "transfer_to_last"), says("last")
    with recording_server(*lines) as server:
        told = ran(server, first, streamed=streamed, responses=responses, workflow_name="chain")
        graph = server.graph("chain")
    assert told == "last is done"
    assert edges(graph) == {"first1 > middle1", "middle1 > last1"}
    assert branches(graph) == {"first1": "main", "middle1": "main", "last1": "main"}
    assert graph.outcome == "ok"
    assert not server.rejected


@streamed_or_not
@any_api
def test_turns_wait_for_tools_that_run_side_by_side(streamed: bool, responses: bool) -> None:
    both = threading.Barrier(2, timeout=10)

    @function_tool
    def tides() -> str:
        both.wait()
        return "high"

    @function_tool
    def winds() -> str:
        both.wait()
        return "strong"

    agent = Agent[None]("pilot", tools=[tides, winds])
    lines = asks("pilot", "tides", "winds"), asks("pilot", "tides", "winds"), says("pilot")
    with recording_server(*lines) as server:
        ran(server, agent, streamed=streamed, responses=responses)
        graph = server.graph()
    graph.assert_shape("pilot > pilot > pilot")
    graph.assert_tools({"tides": 2, "winds": 2})
    assert [tool.outcome for tool in graph.tools] == ["ok"] * 4
    assert edges(graph) == {"pilot1 > pilot2", "pilot2 > pilot3"}


@streamed_or_not
@pytest.mark.parametrize("at_once", [None, 1])
def test_agents_as_tools_run_beside_each_other(streamed: bool, at_once: int | None) -> None:
    # Also where they take turns, because no more may run at once.
    @function_tool
    def look_up() -> str:
        return "found"

    north = Agent[None]("north", tools=[look_up])
    south = Agent[None]("south", tools=[look_up])
    tools: list[Any] = [north.as_tool("ask_north", "Asks."), south.as_tool("ask_south", "Asks.")]
    with recording_server(
        asks("chief", "ask_north", "ask_south"),
        asks("north", "look_up"),
        says("north"),
        asks("south", "look_up"),
        says("south"),
        says("chief"),
    ) as server:
        limit = ToolExecutionConfig(max_function_tool_concurrency=at_once)
        ran(server, Agent[None]("chief", tools=tools), streamed=streamed, tool_execution=limit)
        graph = server.graph()
    assert edges(graph) == {
        "chief1 > north1",
        "north1 > north2",
        "north2 > chief2",
        "chief1 > south1",
        "south1 > south2",
        "south2 > chief2",
    }
    graph.assert_tools({"ask_north": 1, "ask_south": 1, "look_up": 2})
    where = branches(graph)
    assert where["chief1"] == where["chief2"] == "main"
    assert where["north1"] == where["north2"] != where["south1"] == where["south2"]


def test_an_agent_as_a_tool_within_an_agent_as_a_tool() -> None:
    bottom = Agent[None]("bottom")
    middle = Agent[None]("middle", tools=[bottom.as_tool("ask_bottom", "Asks.")])
    top = Agent[None]("top", tools=[middle.as_tool("ask_middle", "Asks.")])
    with recording_server(
        asks("top", "ask_middle"),
        asks("middle", "ask_bottom"),
        says("bottom"),
        says("middle"),
        asks("top", "ask_middle"),
        says("middle"),
        says("top"),
    ) as server:
        ran(server, top)
        graph = server.graph()
    assert edges(graph) == {
        "top1 > middle1",
        "middle1 > bottom1",
        "bottom1 > middle2",
        "middle2 > top2",
        "top2 > middle3",
        "middle3 > top3",
    }


@pytest.mark.parametrize("in_threads", [False, True])
def test_tools_that_call_models(in_threads: bool) -> None:
    both = threading.Barrier(2, timeout=10)

    def reader(name: str) -> Any:
        async def read() -> str:
            return str((await Runner.run(Agent[None](name), "read")).final_output)

        async def read_elsewhere() -> str:
            async with calling(server):
                return await read()

        def read_in_a_thread() -> str:
            both.wait()
            return asyncio.run(read_elsewhere())

        return function_tool(read_in_a_thread if in_threads else read, name_override=f"{name}_reads")

    chief = Agent[None]("chief", tools=[reader("one"), reader("two")])
    lines = asks("chief", "one_reads", "two_reads"), says("one"), says("two"), says("chief")
    with recording_server(*lines) as server:
        ran(server, chief)
        graph = server.graph()
    assert edges(graph) == {"chief1 > one1", "chief1 > two1", "one1 > chief2", "two1 > chief2"}
    graph.assert_tools({"one_reads": 1, "two_reads": 1})


async def verdict_of(agent: str) -> GuardrailFunctionOutput:
    verdict = await Runner.run(Agent[None](agent), "is that fine?")
    return GuardrailFunctionOutput(output_info=verdict.final_output, tripwire_triggered=False)


def checks_input(agent: str, *, in_parallel: bool = True) -> InputGuardrail[None]:
    async def check(*_: Any) -> GuardrailFunctionOutput:
        return await verdict_of(agent)

    return InputGuardrail(check, run_in_parallel=in_parallel)


def checks_output(agent: str) -> OutputGuardrail[None]:
    async def check(*_: Any) -> GuardrailFunctionOutput:
        return await verdict_of(agent)

    return OutputGuardrail(check)


@streamed_or_not
@pytest.mark.parametrize("guards_are_first", [False, True])
def test_input_guardrails_run_beside_what_does_not_wait_for_them(
    streamed: bool, guards_are_first: bool
) -> None:
    # When whole, the first turn with its tools; when streamed, all turns up to the handoff.
    guards_are_over, tool_is_called = threading.Event(), threading.Event()

    @function_tool
    async def look_up() -> str:
        tool_is_called.set()
        return str((await Runner.run(Agent[None]("finder"), "find it")).final_output)

    agent = Agent[None](
        "agent",
        tools=[look_up],
        handoffs=[Agent[None]("helper")],
        input_guardrails=[checks_input("law"), checks_input("manners")],
    )
    until = None if guards_are_first else tool_is_called

    def last_verdict(_: Any) -> Reply:
        guards_are_over.set()
        return Reply("fine", until=until)

    with recording_server(
        Line(
            Reply(calls=[ToolCall("look_up", {})], until=guards_are_over if guards_are_first else None),
            agent="agent",
        ),
        Line(last_verdict, agent="law"),
        says("manners"),
        says("finder"),
        asks("agent", "transfer_to_helper"),
        says("helper"),
    ) as server:
        ran(server, agent, streamed=streamed)
        graph = server.graph()
    waits = "helper1" if streamed else "agent2"
    assert edges(graph) == {
        "agent1 > finder1",
        "finder1 > agent2",
        "agent2 > helper1",
        f"law1 > {waits}",
        f"manners1 > {waits}",
    }
    where = branches(graph)
    assert where["agent1"] == where["agent2"] == where["helper1"] == "main"
    assert len({where["law1"], where["manners1"], "main"}) == 3
    assert {step.agent for step in graph.steps if step.kind == "evaluate"} == {"law", "manners"}


@streamed_or_not
@pytest.mark.parametrize("with_turns", [True, False])
def test_guardrails_that_are_waited_for_come_first_and_those_of_outputs_last(
    streamed: bool, with_turns: bool
) -> None:
    agent = Agent[None](
        "agent",
        input_guardrails=[checks_input("blocking", in_parallel=False), checks_input("beside")],
        output_guardrails=[checks_output("facts"), checks_output("style")],
    )
    with recording_server(*map(says, ("blocking", "beside", "agent", "facts", "style"))) as server:
        ran(server, agent, streamed=streamed, tracing={"include_task_and_turn_spans": with_turns})
        graph = server.graph()
    told = edges(graph)
    waiting = {"beside1 > facts1", "beside1 > style1"}
    assert told - waiting == {
        "blocking1 > beside1",
        "blocking1 > agent1",
        "agent1 > facts1",
        "agent1 > style1",
    }
    if not streamed:  # else it may go on beside them
        assert told >= waiting


def test_a_guardrail_that_begins_while_the_answer_still_comes_does_not_wait_for_it() -> None:
    async def main() -> None:
        async with calling(server) as client:

            async def ask() -> None:
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])

            with trace("beside"), agent_span("agent") as agent, generation_span():
                await ask()
                with guardrail_span("law", parent=agent):
                    await ask()

    with recording_server("yes", "fine") as server:
        asyncio.run(main())
        graph = server.graph("beside")
    assert [(step.kind, step.agent) for step in graph.steps] == [(None, "agent"), ("evaluate", "agent")]
    assert edges(graph) == set()


def test_without_spans_of_tasks_and_turns() -> None:
    @function_tool
    def look_up() -> str:
        return "found"

    agent = Agent[None]("agent", tools=[look_up], handoffs=[Agent[None]("helper")])
    lines = asks("agent", "look_up", "look_up"), asks("agent", "transfer_to_helper"), says("helper")
    with recording_server(*lines) as server:
        ran(server, agent, tracing={"include_task_and_turn_spans": False})
        graph = server.graph()
    assert edges(graph) == {"agent1 > agent2", "agent2 > helper1"}
    graph.assert_tools({"look_up": 2, "transfer_to_helper": 1})
