"""Graphs: supersteps, what is sent, subgraphs, loops, interrupts; agents and their tools."""

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from llmd_agents.client import end_threads
from llmd_agents.testing import Line, RecordedRequest, RecordingServer, Reply, ToolCall, recording_server
from llmd_agents_langchain.runs import RUNS
from tests.recorded import edges, model_of, recorded, watched

WAYS = ["invoke", "ainvoke", "stream", "astream"]


class State(TypedDict, total=False):
    documents: list[str]
    document: str
    done: Annotated[list[str], operator.add]
    turn: int


def run(graph: Any, given: Any, way: str = "invoke", **config: Any) -> Any:
    async def astream() -> list[Any]:
        return [chunk async for chunk in graph.astream(given, watched(**config))]

    before = len(RUNS)
    try:
        match way:
            case "invoke":
                return graph.invoke(given, watched(**config))
            case "ainvoke":
                return asyncio.run(graph.ainvoke(given, watched(**config)))
            case "stream":
                return list(graph.stream(given, watched(**config)))
            case _:
                return asyncio.run(astream())
    finally:
        assert len(RUNS) == before


def graph_of(*nodes: Any, start: list[str], edges: dict[str, list[str]], **options: Any) -> Any:
    """Returns a compiled graph of functions. A name that nothing follows ends it."""
    graph = StateGraph(State)
    for node in nodes:
        graph.add_node(node.__name__, node)
    for name in start:
        graph.add_edge(START, name)
    for name, followers in edges.items():
        for follower in followers:
            graph.add_edge(name, follower)
    return graph.compile(**options)


@pytest.fixture
def speak(model: ChatOpenAI, request: pytest.FixtureRequest) -> Any:
    """Returns a function that makes nodes which say their texts one after another, in either way."""

    def make(name: str, *texts: str, update: dict[str, Any] | None = None) -> Any:
        def node(state: State) -> dict[str, Any]:
            for text in texts or (name,):
                model.invoke(text.format(**state))
            return update or {}

        node.__name__ = name
        return node

    return make


@pytest.mark.parametrize("way", WAYS)
def test_map_reduce(server: RecordingServer, speak: Any, way: str) -> None:
    graph = StateGraph(State)
    graph.add_node("plan", speak("plan", update={"documents": ["x", "y", "z"]}))
    graph.add_node("read", speak("read", "open {document}", "read {document}"))
    graph.add_node("write", speak("write"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda state: [Send("read", {"document": one}) for one in state["documents"]], ["read"]
    )
    graph.add_edge("read", "write")
    run(graph.compile(name="summary"), {}, way)
    found = recorded(server)
    assert found.name == "summary"
    found.assert_shape("plan > fork(open x > read x | open y > read y | open z > read z) > write")
    assert found.assert_forked(3, name="read").joined
    assert Counter(step.agent for step in found.steps) == {"plan": 1, "read": 6, "write": 1}


def test_the_fork_is_told_before_its_children_call(server: RecordingServer, speak: Any) -> None:
    graph = StateGraph(State)
    graph.add_node("plan", speak("plan"))
    graph.add_node("read", speak("read", "{document}"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda _: [Send("read", {"document": one}) for one in "xy"], ["read"])
    run(graph.compile(), {})
    fork = recorded(server).assert_forked(2)
    forked = [call.hints.step.fork for call in server.calls if call.hints is not None]
    assert [position and position.width for position in forked] == [None, 2, 2]
    assert fork.parents == (recorded(server).steps[0].id,)


def test_several_nodes_send_beside_a_plain_edge(server: RecordingServer, speak: Any) -> None:
    graph = StateGraph(State)
    for name in ("a", "b", "c", "d"):
        graph.add_node(name, speak(name))
    graph.add_node("read", speak("read", "{document}"))
    for name in ("a", "b"):
        graph.add_edge(START, name)
        graph.add_conditional_edges(
            name, lambda _, name=name: [Send("read", {"document": f"{name}{one}"}) for one in "xy"], ["read"]
        )
    graph.add_edge("a", "c")
    graph.add_edge(["read", "c"], "d")
    run(graph.compile(), {})
    found = recorded(server)
    told = {"ax", "ay", "bx", "by", "c"}
    assert edges(found) == {(one, other) for one in "ab" for other in told} | {(one, "d") for one in told}
    found.assert_forked(4, name="read")


def test_commands_that_send(server: RecordingServer, speak: Any, model: ChatOpenAI) -> None:
    def plan(state: State) -> Command[Any]:
        model.invoke("plan")
        return Command(goto=[Send("read", {"document": one}) for one in "xy"])

    graph = StateGraph(State)
    graph.add_node("plan", plan, destinations=("read",))
    graph.add_node("read", speak("read", "{document}"))
    graph.add_edge(START, "plan")
    run(graph.compile(), {})
    recorded(server).assert_shape("plan > fork(x | y)")


@pytest.mark.parametrize("way", WAYS)
def test_a_supervisor_with_three_workers(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    """The supervisor asks each worker in turn, and says the last word."""
    workers = ["research", "code", "write"]

    def supervisor(state: State) -> Command[Any]:
        turn = state.get("turn", 0)
        model.invoke(f"decide {turn}")
        return Command(goto=workers[turn] if turn < 3 else END, update={"turn": turn + 1})

    graph = StateGraph(State)
    graph.add_node("supervisor", supervisor, destinations=(*workers, END))
    for name in workers:
        agent = create_agent(model, [], name=f"{name}r", system_prompt="Do it.")

        def worker(state: State, name: str = name, agent: Any = agent) -> dict[str, Any]:
            agent.invoke({"messages": [("user", f"do {name}")]})
            return {}

        graph.add_node(name, worker)
        graph.add_edge(name, "supervisor")
    graph.add_edge(START, "supervisor")
    run(graph.compile(name="team"), {}, way)
    found = recorded(server)
    found.assert_shape("decide 0 > do research > decide 1 > do code > decide 2 > do write > decide 3")
    assert [step.agent for step in found.steps] == [
        "supervisor",
        "researchr",
        "supervisor",
        "coder",
        "supervisor",
        "writer",
        "supervisor",
    ]
    assert {step.branch for step in found.steps} == {"main"}


def test_a_supervisor_that_asks_all_workers_at_once(server: RecordingServer, speak: Any) -> None:
    workers = [speak(name) for name in ("a", "b", "c")]
    names = [worker.__name__ for worker in workers]
    graph = graph_of(
        speak("supervisor"),
        *workers,
        speak("decide"),
        start=["supervisor"],
        edges={"supervisor": names, **{name: ["decide"] for name in names}},
    )
    run(graph, {})
    assert edges(recorded(server)) == {("supervisor", name) for name in names} | {
        (name, "decide") for name in names
    }


@pytest.mark.parametrize("way", WAYS)
def test_branches_of_unequal_length(server: RecordingServer, speak: Any, way: str) -> None:
    """Supersteps are barriers: a2 waits for b1 too, for it begins once all of the step before has ended."""
    graph = StateGraph(State)
    for name in ("plan", "a1", "a2", "a3", "b1", "join"):
        graph.add_node(name, speak(name))
    for one, other in [(START, "plan"), ("plan", "a1"), ("a1", "a2"), ("a2", "a3"), ("plan", "b1")]:
        graph.add_edge(one, other)
    graph.add_edge(["a3", "b1"], "join")
    run(graph.compile(), {}, way)
    assert edges(recorded(server)) == {
        ("plan", "a1"),
        ("plan", "b1"),
        ("a1", "a2"),
        ("b1", "a2"),
        ("a2", "a3"),
        ("a3", "join"),
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_subgraph_in_a_loop(server: RecordingServer, model: ChatOpenAI, speak: Any, way: str) -> None:
    inner = StateGraph(State)
    for name in ("draft", "left", "right", "merge"):
        inner.add_node(name, speak(name, name + " {turn}"))
    inner.add_edge(START, "draft")
    for name in ("left", "right"):
        inner.add_edge("draft", name)
        inner.add_edge(name, "merge")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())

    def judge(state: State) -> State:
        model.invoke(f"judge {state['turn']}")
        return {"turn": state["turn"] + 1}

    outer.add_node("judge", judge)
    outer.add_edge(START, "inner")
    outer.add_edge("inner", "judge")
    outer.add_conditional_edges("judge", lambda state: "inner" if state["turn"] < 2 else END, ["inner", END])
    run(outer.compile(), {"turn": 0}, way)
    expected = {("judge 0", "draft 1")}
    for turn in "01":
        for side in ("left", "right"):
            expected |= {(f"draft {turn}", f"{side} {turn}"), (f"{side} {turn}", f"merge {turn}")}
        expected.add((f"merge {turn}", f"judge {turn}"))
    assert edges(recorded(server)) == expected


@pytest.mark.parametrize("asynchronous", [False, True])
def test_interrupt_and_resume(server: RecordingServer, model: ChatOpenAI, asynchronous: bool) -> None:
    def ask(state: State) -> dict[str, Any]:
        model.invoke("draft")
        return {"done": [interrupt("is it good?")]}

    def publish(state: State) -> dict[str, Any]:
        model.invoke("publish " + state["done"][0])
        return {}

    graph = graph_of(
        ask, publish, start=["ask"], edges={"ask": ["publish"]}, checkpointer=InMemorySaver(), name="approval"
    )
    way = "ainvoke" if asynchronous else "invoke"
    config = {"configurable": {"thread_id": f"canary-{way}"}}
    paused = run(graph, {}, way, **config)
    assert paused["__interrupt__"]
    run(graph, Command(resume="yes"), way, **config)
    end_threads()
    found = recorded(server)
    # LangGraph runs a node that was interrupted again from its beginning.
    found.assert_shape("draft > draft > publish yes")
    assert found.outcome == "ok"
    sent = str([request.headers for request in server.requests]) + str(server.events)
    assert "canary" not in sent


def test_threads_are_programs(server: RecordingServer, speak: Any) -> None:
    graph = graph_of(speak("a"), start=["a"], edges={}, checkpointer=InMemorySaver(), name="chat")
    for thread in ("one", "two", "one"):
        run(graph, {}, configurable={"thread_id": f"{id(server)} {thread}"})
    end_threads()
    assert sorted(len(found.steps) for found in server.graphs()) == [1, 2]


def test_tasks_of_an_entrypoint(server: RecordingServer, model: ChatOpenAI) -> None:
    @task
    def one(text: str) -> str:
        return model.invoke(text).text

    @entrypoint()
    def flow(given: str) -> str:
        one("a").result()
        waited = [one("b"), one("c")]
        return one("d " + " ".join(each.result() for each in waited)).result()

    run(flow, "x")
    assert edges(recorded(server)) == {("a", "b"), ("a", "c"), ("b", "d b c"), ("c", "d b c")}


# --- agents


@tool
def search(query: str) -> str:
    """Finds something."""
    return f"found {query}"


@tool
async def asearch(query: str) -> str:
    """Finds something."""
    return f"found {query}"


def react(request: RecordedRequest) -> Reply:
    """Asks for two tools at once, then for one, then answers."""
    results = sum(message["role"] == "tool" for message in request.json["messages"])
    name = request.json["tools"][0]["function"]["name"]
    asked = {0: ["x", "y"], 2: ["z"]}.get(results, [])
    return Reply("" if asked else "done", calls=[ToolCall(name, {"query": one}) for one in asked])


@pytest.mark.parametrize("way", WAYS)
def test_a_react_agent(way: str) -> None:
    with recording_server(Line(react, times=3)) as server, model_of(server.base_url) as model:
        used = asearch if way.startswith("a") else search
        run(create_agent(model, [used], name="scout"), {"messages": [("user", "find it")]}, way)
        found = server.graph("scout")
        found.assert_shape("scout > scout > scout")
        found.assert_tools([used.name] * 3)
        assert {called.outcome for called in found.tools} == {"ok"}
        asked = [
            called["id"]
            for call in server.calls
            for message in call.json["messages"]
            for called in message.get("tool_calls") or ()
        ]
        assert {called.id for called in found.tools} == set(asked)
        assert not found.forks


def test_an_agent_as_a_tool(server: RecordingServer, model: ChatOpenAI) -> None:
    @tool
    def delegate(text: str) -> str:
        """Lets somebody else do it."""
        inner: Any = create_agent(model, [], name="helper")
        return str(inner.invoke({"messages": [("user", text)]})["messages"][-1].text)

    calls = [ToolCall("delegate", {"text": text}) for text in ("one", "two")]
    with recording_server(Reply(calls=calls), "end") as other, model_of(other.base_url) as lead:
        run(create_agent(lead, [delegate], name="lead"), {"messages": [("user", "go")]})
        helped = server.graph("lead")
        led = other.graph("lead")
    assert sorted(call.last_text for call in server.calls) == ["one", "two"]
    assert [step.agent for step in helped.steps] == ["helper", "helper"]
    (first, last), ids = led.steps, {step.id for step in helped.steps}
    assert {step.parents for step in helped.steps} == {(first.id,)}
    assert set(last.parents) == ids
    led.assert_tools(["delegate", "delegate"])
