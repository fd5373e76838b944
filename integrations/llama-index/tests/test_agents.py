"""Agents: their turns, and the tools that they wait for."""

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
from llama_index.core.agent.workflow import AgentOutput, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent
from llama_index.llms.openai import OpenAI

from llmd_agents import tool
from llmd_agents.hints import ToolFinished, ToolStarted
from llmd_agents.testing import Line, RecordingServer, Reply, ToolCall
from tests.test_workflows import LOOP, Looping
from tests.told import edges, named, run, say, told


async def search(query: str) -> str:
    """Searches."""
    return f"found {query}"


def lookup(key: str) -> str:
    """Looks up."""
    return f"value {key}"


async def broken(query: str) -> str:
    """Fails."""
    raise ValueError(query)


def tool_events(server: RecordingServer) -> tuple[list[ToolStarted], list[ToolFinished]]:
    started = [event for event in server.events if isinstance(event, ToolStarted)]
    return started, [event for event in server.events if isinstance(event, ToolFinished)]


def calls(*tools: ToolCall) -> Reply:
    return Reply(calls=list(tools))


@pytest.mark.parametrize("streaming", [False, True])
def test_tools_in_sequence(streaming: bool) -> None:
    async def main(llm: OpenAI) -> str:
        agent = FunctionAgent(name="scout", tools=[search, lookup], llm=llm, streaming=streaming)
        return str(await agent.run(user_msg="question"))

    lines = (
        calls(ToolCall("search", {"query": "tides"}, id="call_1")),
        calls(ToolCall("lookup", {"key": "k"}, id="call_2")),
        "done",
    )
    with told(*lines) as server:
        assert run(server, main) == "done"
        graph = named(server, "scout")
        started, finished = tool_events(server)
    graph.assert_shape("question > found tides > value k")
    graph.assert_tools(["search", "lookup"])
    assert {step.agent for step in graph.steps} == {"scout"}
    assert [(event.tool, event.call) for event in started] == [("search", "call_1"), ("lookup", "call_2")]
    assert [(event.call, event.outcome) for event in finished] == [("call_1", "ok"), ("call_2", "ok")]


def test_tools_side_by_side() -> None:
    async def main(llm: OpenAI) -> str:
        agent = FunctionAgent(name="scout", tools=[search, lookup, broken], llm=llm, streaming=False)
        return str(await agent.run(user_msg="question"))

    asked = [
        ToolCall("search", {"query": "a"}, id="call_1"),
        ToolCall("search", {"query": "b"}, id="call_2"),
        ToolCall("lookup", {"key": "c"}, id="call_3"),
        ToolCall("broken", {"query": "d"}, id="call_4"),
        ToolCall("nowhere", {}, id="call_5"),
    ]
    with told(calls(*asked), "done") as server:
        assert run(server, main) == "done"
        graph = named(server, "scout")
        started, finished = tool_events(server)
    assert len(graph.steps) == 2
    graph.assert_sequential()
    # The conversation goes on where it was, and tools that call no model are no fork.
    assert {step.branch for step in graph.steps} == {"main"}
    assert not graph.forks
    assert Counter(event.call for event in started) == {f"call_{number}": 1 for number in range(1, 6)}
    assert {event.call: event.outcome for event in finished} == {
        "call_1": "ok",
        "call_2": "ok",
        "call_3": "ok",
        "call_4": "error",
        "call_5": "ok",
    }


def test_agents_as_tools_side_by_side() -> None:
    async def main(llm: OpenAI) -> str:
        chief = FunctionAgent(
            name="chief", tools=[helper(llm, "left"), helper(llm, "right")], llm=llm, streaming=False
        )
        return str(await chief.run(user_msg="question"))

    lines = (
        Line(
            calls(
                ToolCall("left", {"task": "go left"}, id="l"), ToolCall("right", {"task": "go right"}, id="r")
            ),
            says="question",
        ),
        Line(calls(ToolCall("search", {"query": "shells"}, id="s")), says="go left"),
        Line("left is done", says="found shells"),
        Line("right is done", says="go right"),
        Line("all done", agent="chief"),
    )
    with told(*lines) as server:
        assert run(server, main) == "all done"
        graph = server.graph("chief").labelled(lambda step: step.agent or "?")
        named_graph = named(server, "chief")
        started, _ = tool_events(server)
    graph.assert_edges({"chief": ["left", "right"], "left": ["left", "chief"], "right": ["chief"]})
    assert graph.assert_forked(2, name="tools").joined
    graph.assert_shape("chief > fork(2: left > left | right) > chief".replace("fork(2: ", "fork("))
    last = [step for step in named_graph.steps if step.agent == "chief"][-1].label
    assert edges(named_graph) == {
        ("question", "go left"): 1,
        ("question", "go right"): 1,
        ("go left", "found shells"): 1,
        ("found shells", last): 1,
        ("go right", last): 1,
    }
    assert sorted(event.call for event in started) == ["l", "r", "s"]


def helper(llm: OpenAI, name: str) -> FunctionTool:
    """A tool that asks an agent of its own."""

    async def ask(task: str) -> str:
        return str(
            await FunctionAgent(name=name, tools=[search], llm=llm, streaming=False).run(user_msg=task)
        )

    return FunctionTool.from_defaults(async_fn=ask, name=name, description="helps")


def test_rounds_of_tool_calls() -> None:
    async def main(llm: OpenAI) -> str:
        tools: list[Any] = [search, helper(llm, "left"), helper(llm, "right")]
        chief = FunctionAgent(name="chief", tools=tools, llm=llm, streaming=False)
        return str(await chief.run(user_msg="question"))

    lines = (
        Line(calls(ToolCall("search", {"query": "x"}), ToolCall("search", {"query": "y"})), agent="chief"),
        Line(calls(ToolCall("left", {"task": "a"}), ToolCall("right", {"task": "b"})), agent="chief"),
        Line("fine", agent="left"),
        Line("fine", agent="right"),
        Line(calls(ToolCall("left", {"task": "c"})), agent="chief"),
        Line("fine", agent="left"),
        Line(calls(ToolCall("left", {"task": "d"}), ToolCall("search", {"query": "z"})), agent="chief"),
        Line("fine", agent="left"),
        Line("the end", agent="chief"),
    )
    with told(*lines) as server:
        assert run(server, main) == "the end"
        graph = server.graph("chief").labelled(lambda step: step.agent or "?")
    graph.assert_shape("chief > chief > fork(left | right) > chief > left > chief > fork(left | -) > chief")
    assert {step.branch for step in graph.steps if step.agent == "chief"} == {"main"}
    assert [(fork.width, fork.joined) for fork in graph.forks] == [(2, True), (2, True)]


def test_rounds_of_tool_calls_of_agents_that_hand_off() -> None:
    async def main(llm: OpenAI) -> str:
        first = FunctionAgent(name="first", description="begins", tools=[search], llm=llm, streaming=False)
        tools: list[Any] = [helper(llm, "left"), helper(llm, "right")]
        second = FunctionAgent(name="second", description="ends", tools=tools, llm=llm, streaming=False)
        return str(await AgentWorkflow(agents=[first, second], root_agent="first").run(user_msg="question"))

    lines = (
        Line(calls(ToolCall("search", {"query": "x"}), ToolCall("search", {"query": "y"})), agent="first"),
        Line(calls(ToolCall("handoff", {"to_agent": "second", "reason": "done"})), agent="first"),
        Line(calls(ToolCall("left", {"task": "a"}), ToolCall("right", {"task": "b"})), agent="second"),
        Line("fine", agent="left"),
        Line("fine", agent="right"),
        Line(calls(ToolCall("left", {"task": "c"})), agent="second"),
        Line("fine", agent="left"),
        Line("the end", agent="second"),
    )
    with told(*lines) as server:
        assert run(server, main) == "the end"
        graph = server.graph("AgentWorkflow").labelled(lambda step: step.agent or "?")
    graph.assert_shape("first > first > second > fork(left | right) > second > left > second")


@pytest.mark.parametrize("beside", [False, True])
def test_a_tool_that_asks_a_person(beside: bool) -> None:
    async def confirm(ctx: Context[Any]) -> str:
        """Asks."""
        question = InputRequiredEvent(prefix="?")
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=question)
        return f"confirmed {answer.response}"

    async def main(llm: OpenAI) -> str:
        agent = FunctionAgent(name="careful", tools=[confirm, search], llm=llm, streaming=False)
        handler = agent.run(user_msg="question")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response="yes"))
        return str(await handler)

    asked = [ToolCall("confirm", {}, id="call_1"), ToolCall("search", {"query": "x"}, id="call_2")]
    with told(calls(*asked[: 2 if beside else 1]), "done") as server:
        assert run(server, main) == "done"
        graph = named(server, "careful")
        _, finished = tool_events(server)
    assert len(graph.steps) == 2
    graph.assert_sequential()
    assert {step.branch for step in graph.steps} == {"main"}
    # It is called again when the answer is there.
    assert [event.outcome for event in finished if event.tool == "confirm"] == ["cancelled", "ok"]


def test_what_a_tool_does_side_by_side() -> None:
    async def main(llm: OpenAI) -> str:
        async def research(topic: str) -> str:
            """Searches."""
            scout = FunctionAgent(name="scout", tools=[search], llm=llm, streaming=False)
            await asyncio.gather(llm.achat(say("beside")), scout.run(user_msg="scouted"))
            return "researched"

        agent = FunctionAgent(name="chief", tools=[research], llm=llm, streaming=False)
        return str(await agent.run(user_msg="question"))

    lines = (
        Line(calls(ToolCall("research", {"topic": "x"})), says="question"),
        Line("aside", says="beside"),
        Line(calls(ToolCall("search", {"query": "tides"})), says="scouted"),
        Line("scouted", agent="scout"),
        Line("done", agent="chief"),
    )
    with told(*lines) as server:
        assert run(server, main) == "done"
        graph = named(server, "chief")
    assert edges(graph) == {
        ("question", "beside"): 1,
        ("question", "scouted"): 1,
        ("scouted", "found tides"): 1,
        ("beside", "researched"): 1,
        ("found tides", "researched"): 1,
    }


class Considerate(FunctionAgent):
    """An agent of the application's own, which does more than one thing at a time."""

    async def take_step(self, ctx: Any, llm_input: Any, tools: Any, memory: Any) -> AgentOutput:
        step = super().take_step(ctx, llm_input, tools, memory)
        output, _ = await asyncio.gather(step, Looping(cast("OpenAI", self.llm)).run())
        return output


def test_an_agent_that_does_several_things_at_once() -> None:
    async def main(llm: OpenAI) -> str:
        return str(
            await Considerate(name="own", tools=[search], llm=llm, streaming=False).run(user_msg="question")
        )

    with told() as server:
        assert run(server, main) == "fine"
        graph = named(server, "own")
    assert len(graph.steps) == 7
    assert edges(graph) == LOOP


def test_react() -> None:
    async def main(llm: OpenAI) -> str:
        agent = ReActAgent(name="thinker", tools=[search, lookup], llm=llm, streaming=False)
        return str(await agent.run(user_msg="question"))

    lines = (
        'Thought: I need to search.\nAction: search\nAction Input: {"query": "tides"}',
        'Thought: And look up.\nAction: lookup\nAction Input: {"key": "k"}',
        "Thought: I can answer without using any more tools.\nAnswer: it is done",
    )
    with told(*lines) as server:
        assert run(server, main) == "it is done"
        graph = named(server, "thinker")
    graph.assert_sequential()
    assert len(graph.steps) == 3
    assert {step.branch for step in graph.steps} == {"main"}
    graph.assert_tools(["search", "lookup"])
    assert {call.outcome for call in graph.tools} == {"ok"}


def test_agents_that_hand_off() -> None:
    async def main(llm: OpenAI) -> str:
        first = FunctionAgent(name="first", description="begins", tools=[search], llm=llm, streaming=False)
        second = FunctionAgent(name="second", description="ends", tools=[lookup], llm=llm, streaming=False)
        team = AgentWorkflow(agents=[first, second], root_agent="first")
        return str(await team.run(user_msg="question"))

    lines = (
        calls(ToolCall("search", {"query": "tides"}, id="call_1")),
        calls(ToolCall("handoff", {"to_agent": "second", "reason": "done"}, id="call_2")),
        calls(ToolCall("lookup", {"key": "k"}, id="call_3")),
        "the end",
    )
    with told(*lines) as server:
        assert run(server, main) == "the end"
        graph = server.graph("AgentWorkflow")
    assert [step.agent for step in graph.steps] == ["first", "first", "second", "second"]
    graph.assert_sequential()
    assert len(graph.edges) == 3
    graph.assert_tools(["search", "handoff", "lookup"])


def test_a_tool_of_the_developers_own_is_one_call() -> None:
    @tool(name="dig", expected="3s", result_lifetime="branch")
    async def dig(place: str) -> str:
        """Digs."""
        return place

    async def main(llm: OpenAI) -> str:
        agent = FunctionAgent(name="digger", tools=[dig], llm=llm, streaming=False)
        return str(await agent.run(user_msg="question"))

    with told(calls(ToolCall("dig", {"place": "here"}, id="call_1")), "done") as server:
        assert run(server, main) == "done"
        graph = named(server, "digger")
        started, finished = tool_events(server)
    graph.assert_tools(["dig"])
    assert [(event.call, event.expected, event.result_lifetime) for event in started] == [
        ("call_1", 3.0, "branch")
    ]
    assert [event.call for event in finished] == ["call_1"]


def test_a_conversation_in_a_context_is_one_program_on_one_branch() -> None:
    async def main(llm: OpenAI) -> None:
        agent = FunctionAgent(name="talker", tools=[search], llm=llm, streaming=False)
        context: Context[Any] = Context(agent)
        await agent.run(user_msg="one", ctx=context)
        await agent.run(user_msg="two", ctx=context)

    with told() as server:
        run(server, main)
        (graph,) = server._graphs()
    assert len(graph.steps) == 2
    graph.assert_sequential()
    assert {step.branch for step in graph.steps} == {"main"}


def test_two_agents_at_once() -> None:
    async def main(llm: OpenAI) -> None:
        agent = FunctionAgent(name="scout", tools=[search], llm=llm, streaming=False)
        await asyncio.gather(agent.run(user_msg="one"), agent.run(user_msg="two"))

    with told() as server:
        run(server, main)
        graphs = server.graphs()
    assert [len(graph.steps) for graph in graphs] == [1, 1]


def test_an_agent_that_gives_up() -> None:
    async def main(llm: OpenAI) -> None:
        agent = FunctionAgent(name="scout", tools=[search], llm=llm, streaming=False)
        with pytest.raises(Exception, match="Max iterations"):
            await agent.run(user_msg="question", max_iterations=2)

    with told(Line(calls(ToolCall("search", {"query": "x"})), times=2)) as server:
        run(server, main)
        graph = server.graph("scout")
    assert graph.outcome == "error"
    assert len(graph.edges) == 1


def test_a_query_engine_as_a_tool() -> None:
    from llama_index.core import Document, SummaryIndex

    async def main(llm: OpenAI) -> str:
        index = SummaryIndex.from_documents([Document(text="Tides come twice a day.")])
        library = QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name="library")
        agent = FunctionAgent(name="reader", tools=[library], llm=llm, streaming=False)
        return str(await agent.run(user_msg="question"))

    lines = (
        calls(ToolCall("library", {"input": "tides"}, id="call_1")),
        "twice a day",
        "done",
    )
    with told(*lines) as server:
        assert run(server, main) == "done"
        graph = named(server, "reader")
    graph.assert_sequential()
    assert len(graph.steps) == 3
    graph.assert_tools(["library"])
