"""What a router in front of embedded engines sees of graphs and chains: all of their edges, and no others."""

import operator
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from tests.recorded import model_of, watched
from tests.stack import stack


class State(TypedDict, total=False):
    document: str
    turn: int
    done: Annotated[list[str], operator.add]


class Teller:
    """Says texts to a model, and knows which steps that were."""

    def __init__(self, base_url: str, model: ChatOpenAI) -> None:
        self.base_url = base_url
        self.model = model
        self.said: dict[str, str] = {}
        self._programs: set[str] = set()

    def say(self, text: str) -> str:
        self.note(self.model.invoke(text), text)
        return ""

    def note(self, answer: Any, text: str) -> None:
        note = answer.response_metadata["llmd_agents"]
        self.said[note["step"]] = text
        self._programs.add(note["program"])

    def node(self, *texts: str) -> Any:
        def run(state: State) -> State:
            for text in texts:
                self.say(text.format(**state))
            return {}

        return run

    def seen(self) -> Any:
        """Returns what the router saw of the only program, once that has finished."""
        (program,) = self._programs
        for _ in range(1000):
            view = httpx.get(f"{self.base_url}/agent/programs/{program}", timeout=10).json()
            if view["status"] != "running":
                return view
            time.sleep(0.01)
        raise TimeoutError(program)

    def edges(self) -> list[tuple[str, str]]:
        view = self.seen()
        assert view["status"] == "ok"
        assert {step["id"] for step in view["steps"]} == self.said.keys()
        return sorted((self.said[one], self.said[other]) for one, other in view["edges"])


REACT = """
[agent]
replies = [
  { calls = [{ name = "search", arguments = { query = "x" } },
             { name = "search", arguments = { query = "y" } }] },
  { calls = [{ name = "search", arguments = { query = "z" } }] },
  { tokens = 8 },
]
"""


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scripts = tmp_path_factory.mktemp("scripts") / "react.toml"
    scripts.write_text(REACT)
    with stack(scripts=scripts) as url:
        yield url


@pytest.fixture
def teller(base_url: str) -> Iterator[Teller]:
    with model_of(base_url) as model:
        yield Teller(base_url, model)


def test_map_reduce(teller: Teller) -> None:
    graph = StateGraph(State)
    graph.add_node("plan", teller.node("plan"))
    graph.add_node("read", teller.node("open {document}", "read {document}"))
    graph.add_node("write", teller.node("write"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda _: [Send("read", {"document": one}) for one in "xyz"], ["read"]
    )
    graph.add_edge("read", "write")
    graph.compile().invoke({}, watched())
    expected: list[tuple[str, str]] = []
    for one in "xyz":
        expected += [("plan", f"open {one}"), (f"open {one}", f"read {one}"), (f"read {one}", "write")]
    assert teller.edges() == sorted(expected)
    (fork,) = teller.seen()["forks"]
    assert (fork["name"], fork["width"], fork["joined"]) == ("read", 3, True)


def test_a_supervisor_with_three_workers(teller: Teller) -> None:
    workers = ["research", "code", "write"]

    def supervisor(state: State) -> Command[Any]:
        turn = state.get("turn", 0)
        teller.say(f"decide {turn}")
        return Command(goto=workers[turn] if turn < 3 else END, update={"turn": turn + 1})

    graph = StateGraph(State)
    graph.add_node("supervisor", supervisor, destinations=(*workers, END))
    for name in workers:
        graph.add_node(name, teller.node(name))
        graph.add_edge(name, "supervisor")
    graph.add_edge(START, "supervisor")
    graph.compile().invoke({}, watched())
    said = ["decide 0", "research", "decide 1", "code", "decide 2", "write", "decide 3"]
    assert teller.edges() == sorted(pairwise(said))


def test_a_react_agent(teller: Teller) -> None:
    @tool
    def search(query: str) -> str:
        """Finds something."""
        return f"found {query}"

    scripted = {"model_kwargs": {"extra_headers": {"x-llmd-script": "react/agent"}}}
    agent: Any = create_agent(teller.model.model_copy(update=scripted), [search], name="scout")
    answers = agent.invoke({"messages": [("user", "find it")]}, watched())["messages"]
    for turn, answer in enumerate(one for one in answers if one.type == "ai"):
        teller.note(answer, f"turn {turn}")
    assert teller.edges() == [("turn 0", "turn 1"), ("turn 1", "turn 2")]
    assert [(called["tool"], called["outcome"]) for called in teller.seen()["tools"]] == [
        ("search", "ok")
    ] * 3


def test_a_subgraph_in_a_loop(teller: Teller) -> None:
    inner = StateGraph(State)
    for name in ("draft", "left", "right", "merge"):
        inner.add_node(name, teller.node(name + " {turn}"))
    inner.add_edge(START, "draft")
    for name in ("left", "right"):
        inner.add_edge("draft", name)
        inner.add_edge(name, "merge")

    def judge(state: State) -> State:
        teller.say(f"judge {state['turn']}")
        return {"turn": state["turn"] + 1}

    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_node("judge", judge)
    outer.add_edge(START, "inner")
    outer.add_edge("inner", "judge")
    outer.add_conditional_edges("judge", lambda state: "inner" if state["turn"] < 2 else END, ["inner", END])
    outer.compile().invoke({"turn": 0}, watched())
    expected = [("judge 0", "draft 1")]
    for turn in "01":
        for side in ("left", "right"):
            expected += [(f"draft {turn}", f"{side} {turn}"), (f"{side} {turn}", f"merge {turn}")]
        expected.append((f"merge {turn}", f"judge {turn}"))
    assert teller.edges() == sorted(expected)


def test_branches_of_unequal_length(teller: Teller) -> None:
    graph = StateGraph(State)
    for name in ("plan", "a1", "a2", "b1", "join"):
        graph.add_node(name, teller.node(name))
    for one, other in [(START, "plan"), ("plan", "a1"), ("a1", "a2"), ("plan", "b1")]:
        graph.add_edge(one, other)
    graph.add_edge(["a2", "b1"], "join")
    graph.compile().invoke({}, watched())
    assert teller.edges() == [("a1", "a2"), ("a2", "join"), ("b1", "a2"), ("plan", "a1"), ("plan", "b1")]


def test_nested_parallel_and_batch(teller: Teller) -> None:
    def say(text: str) -> Runnable[Any, str]:
        return RunnableLambda(lambda _: teller.say(text))

    each: Runnable[str, str] = RunnableLambda(teller.say)

    def several(_: Any) -> str:
        each.batch(["x", "y"])
        return ""

    inner = RunnableParallel(left=say("c"), right=say("d"))
    outer = RunnableParallel(short=say("a"), long=say("b") | inner)
    (say("plan") | outer | RunnableLambda(several) | say("end")).invoke("", watched())
    assert teller.edges() == sorted(
        [("plan", "a"), ("plan", "b"), ("b", "c"), ("b", "d")]
        + [(one, other) for one in "acd" for other in "xy"]
        + [("x", "end"), ("y", "end")]
    )
