"""Programs of any shape, as chains and as graphs: their edges are those, all of those, and no others."""

import asyncio
from functools import partial
from typing import Any, NamedTuple, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from llmd_agents.testing import RecordingServer
from tests.recorded import by_text, edges, watched


class Shape(NamedTuple):
    """A call, or a sequence, branches side by side, a map or a loop of others.

    Attributes:
        times: of a map's items, or of a loop's turns.
    """

    kind: str
    parts: tuple["Shape", ...] = ()
    times: int = 0


CALL = Shape("call")


def _above(shapes: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    several = st.lists(shapes, min_size=2, max_size=3).map(tuple)
    counts = st.integers(1, 3)
    return st.one_of(
        st.builds(Shape, st.sampled_from(["sequence", "parallel"]), several),
        st.builds(Shape, st.sampled_from(["map", "loop"]), st.tuples(shapes), counts),
    )


shapes = st.recursive(st.just(CALL), _above, max_leaves=6)
generated = partial(
    settings,
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# A call says where it is: the path to it, and the items and turns that it is within.


def expected(shape: Shape, path: str = "", within: str = "") -> set[tuple[str, str]]:
    """Returns the edges of a program that says `begin`, does what the shape tells, and says `end`."""
    found: set[tuple[str, str]] = set()

    def follow(shape: Shape, path: str, within: str, before: frozenset[str]) -> frozenset[str]:
        """Adds the edges of a part; returns what follows it."""
        match shape.kind:
            case "call":
                found.update((one, f"{path}{within}") for one in before)
                return frozenset({f"{path}{within}"})
            case "sequence":
                for index, part in enumerate(shape.parts):
                    before = follow(part, f"{path}/{index}", within, before)
                return before
            case "loop":
                for turn in range(shape.times):
                    before = follow(shape.parts[0], f"{path}/0", f"{within}.{turn}", before)
                return before
            case "map":
                ends = [
                    follow(shape.parts[0], f"{path}/0", f"{within}.{item}", before)
                    for item in range(shape.times)
                ]
            case _:
                ends = [
                    follow(part, f"{path}/{index}", within, before) for index, part in enumerate(shape.parts)
                ]
        return frozenset().union(*ends)

    found.update((one, "end") for one in follow(shape, path, within, frozenset({"begin"})))
    return found


def check(server: RecordingServer, shape: Shape) -> None:
    graph = server.graphs()[-1]
    assert graph.outcome == "ok"
    assert edges(by_text(server, graph)) == expected(shape)
    assert all(fork.width > 1 and fork.joined for fork in graph.forks)


# --- chains: what is passed on is where a call is within


def chain_of(model: ChatOpenAI, shape: Shape, path: str = "") -> Runnable[str, str]:
    def part(index: int) -> Runnable[str, str]:
        return chain_of(model, shape.parts[index], f"{path}/{index}")

    match shape.kind:
        case "call":
            said: Runnable[str, Any] = RunnableLambda(lambda within: f"{path}{within}")
            return said | model | RunnableLambda(lambda message: message.text.removeprefix(path))
        case "sequence":
            chain = part(0)
            for index in range(1, len(shape.parts)):
                chain = chain | part(index)
            return chain
        case "parallel":
            branches = RunnableParallel({f"part{index}": part(index) for index in range(len(shape.parts))})
            return branches | RunnableLambda(lambda results: str(results["part0"]))
        case "map":
            items: Runnable[str, list[str]] = RunnableLambda(
                lambda within: [f"{within}.{item}" for item in range(shape.times)]
            )
            return items | part(0).map() | RunnableLambda(lambda results: results[0].rpartition(".")[0])
    body = part(0)

    def turns(within: str) -> str:
        for turn in range(shape.times):
            body.invoke(f"{within}.{turn}")
        return within

    async def aturns(within: str) -> str:
        for turn in range(shape.times):
            await body.ainvoke(f"{within}.{turn}")
        return within

    return RunnableLambda(turns, aturns)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_chains(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    said: Runnable[Any, Any] = RunnableLambda(lambda _: "begin")
    last: Runnable[Any, Any] = RunnableLambda(lambda _: "end")

    @given(shapes)
    @generated()
    def run(shape: Shape) -> None:
        nothing: Runnable[Any, Any] = RunnableLambda(lambda _: "")
        chain = said | model | nothing | chain_of(model, shape) | last | model
        match way:
            case "invoke":
                chain.invoke("", watched())
            case "ainvoke":
                asyncio.run(chain.ainvoke("", watched()))
            case _:
                assert list(chain.stream("", watched()))
        check(server, shape)

    run()


# --- graphs


class State(TypedDict, total=False):
    within: str
    turn: int


def node_of(graph: Any) -> Any:
    """Returns a node that runs a graph for a state of its own."""

    def run(state: State) -> State:
        graph.invoke({"within": state["within"]})
        return {}

    async def arun(state: State) -> State:
        await graph.ainvoke({"within": state["within"]})
        return {}

    return RunnableLambda(run, arun)


def graph_of(model: ChatOpenAI, shape: Shape, path: str = "") -> Any:
    graph = StateGraph(State)
    parts = [graph_of(model, part, f"{path}/{index}") for index, part in enumerate(shape.parts)]
    match shape.kind:
        case "call":

            def say(state: State) -> State:
                model.invoke(f"{path}{state['within']}")
                return {}

            async def asay(state: State) -> State:
                await model.ainvoke(f"{path}{state['within']}")
                return {}

            graph.add_node("say", RunnableLambda(say, asay))
            graph.add_edge(START, "say")
        case "sequence":
            for index, part in enumerate(parts):
                graph.add_node(f"part{index}", part)  # a subgraph as it is
                graph.add_edge(f"part{index - 1}" if index else START, f"part{index}")
        case "parallel":
            for index, part in enumerate(parts):
                graph.add_node(f"part{index}", node_of(part))
                graph.add_edge(START, f"part{index}")
        case "map":
            graph.add_node("each", node_of(parts[0]))
            graph.add_conditional_edges(
                START,
                lambda state: [
                    Send("each", {"within": f"{state['within']}.{item}"}) for item in range(shape.times)
                ],
                ["each"],
            )
        case "loop":
            body = node_of(parts[0])

            def turn(state: State) -> State:
                return {"within": f"{state['within']}.{state.get('turn', 0)}"}

            def after(state: State) -> State:
                return {"turn": state.get("turn", 0) + 1, "within": state["within"].rpartition(".")[0]}

            graph.add_node("turn", turn)
            graph.add_node("body", body)
            graph.add_node("after", after)
            graph.add_edge(START, "turn")
            graph.add_edge("turn", "body")
            graph.add_edge("body", "after")
            graph.add_conditional_edges(
                "after", lambda state: "turn" if state["turn"] < shape.times else END, ["turn", END]
            )
    return graph.compile()


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_graphs(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    @given(shapes)
    @generated()
    def run(shape: Shape) -> None:
        graph = StateGraph(State)

        def begin(state: State) -> State:
            model.invoke("begin")
            return {"within": ""}

        def end(state: State) -> State:
            model.invoke("end")
            return {}

        graph.add_node("first", begin)
        graph.add_node("program", node_of(graph_of(model, shape)))
        graph.add_node("last", end)
        for one, other in [(START, "first"), ("first", "program"), ("program", "last")]:
            graph.add_edge(one, other)
        app = graph.compile()
        match way:
            case "invoke":
                app.invoke({"within": ""}, watched())
            case "ainvoke":
                asyncio.run(app.ainvoke({"within": ""}, watched()))
            case _:
                assert list(app.stream({"within": ""}, watched(), stream_mode="updates", subgraphs=True))
        check(server, shape)

    run()
