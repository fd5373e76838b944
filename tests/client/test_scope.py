"""Scopes: the graph that servers see is the one that the framework ran."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from llmd_agents import instrument, program
from llmd_agents.client import FanOut, OpenScopes, Scope, begin_scope, current_scope, end_threads, open_scopes
from llmd_agents.client.kept_programs import IDLE_SECONDS, PROGRAMS_MAX, KeptPrograms
from llmd_agents.testing import Line, ProgramGraph, RecordingServer, recording_server


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingServer]:
    with recording_server(Line("fine", times=None)) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: RecordingServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="k") as made:
        yield instrument(made)


def ask(client: OpenAI, text: str) -> None:
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


def call(client: OpenAI, scope: Scope, label: str) -> Scope:
    with scope.open(agent=label) as leaf:
        ask(client, label)
    return leaf


def recorded(server: RecordingServer, program_id: str) -> ProgramGraph:
    server.settle()
    return next(graph for graph in server.graphs() if graph.id == program_id)


def edges(graph: ProgramGraph) -> set[tuple[str, str]]:
    return {(one.label, other.label) for one, other in graph.edges}


# --- programs of any shape


class Node(NamedTuple):
    """A model call (no children), or a sequence, a phase, overlapping scopes or a fan-out of children."""

    kind: str
    children: tuple["Node", ...] = ()


nodes = st.recursive(
    st.just(Node("call")),
    lambda inner: st.builds(
        Node,
        st.sampled_from(["sequence", "sequence", "phase", "turns", "overlap", "fan_out"]),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=9,
)


async def perform(node: Node, scope: Scope, client: AsyncOpenAI, draws: random.Random, path: str) -> None:
    if node.kind == "call":
        with scope.open(agent=path):
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": path}])
        return
    with scope.open() as here:
        inner = [f"{path}.{index}" for index in range(len(node.children))]
        if node.kind == "sequence":
            for child, name in zip(node.children, inner, strict=True):
                await perform(child, here, client, draws, name)
            return
        fan_out = here.fan_out(len(inner)) if node.kind == "fan_out" else None
        phase = "side by side" if node.kind in ("phase", "turns") else None

        async def branch(child: Node, name: str, opened: Scope | None) -> None:
            with opened or here.open(phase=phase, of=fan_out) as own:
                await asyncio.sleep(draws.random() / 1000)
                await perform(child, own, client, draws, name)

        if node.kind == "turns":  # a framework may run them one after another all the same
            for child, name in zip(node.children, inner, strict=True):
                await branch(child, name, None)
            return
        opened = [here.open() if node.kind == "overlap" else None for _ in inner]
        await asyncio.gather(*map(branch, node.children, inner, opened))


def expected(node: Node, entry: set[str], path: str, found: set[tuple[str, str]]) -> set[str]:
    """Adds the edges of a program to `found`; returns what follows it depends on."""
    if node.kind == "call":
        found |= {(before, path) for before in entry}
        return {path}
    exits: set[str] = set()
    for index, child in enumerate(node.children):
        reached = expected(child, entry, f"{path}.{index}", found)
        if node.kind == "sequence":
            entry = reached
        exits |= reached
    return entry if node.kind == "sequence" else exits


@settings(max_examples=30, deadline=None)
@given(st.lists(nodes, min_size=1, max_size=3).map(tuple), st.integers(0, 99))
def test_programs_of_any_shape(server: RecordingServer, children: tuple[Node, ...], seed: int) -> None:
    node = Node("sequence", children)

    async def main() -> str:
        async with AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            instrument(client)
            with begin_scope("any shape") as scope:
                await perform(node, scope, client, random.Random(seed), "n")
                return scope.run.id

    wanted: set[tuple[str, str]] = set()
    expected(node, set(), "n", wanted)
    graph = recorded(server, asyncio.run(main()))
    assert edges(graph) == wanted
    assert graph.outcome == "ok"
    assert all(fork.joined for fork in graph.forks)


# --- scopes that follow each other


def work(client: OpenAI, scope: Scope, label: str) -> Scope:
    with scope:
        ask(client, label)
    return scope


def test_a_fan_out_that_is_collected(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("flow") as flow:
        with flow.follow(agent="plan") as plan:
            ask(client, "plan")
            fan_out = plan.fan_out(3, "search")
        begun = [work(client, flow.follow(plan, agent=f"a{n}", of=fan_out), "a") for n in range(3)]
        more = work(client, flow.follow(begun[0], agent="more"), "more")
        judge = work(client, flow.follow(more, *begun[1:], agent="judge"), "judge")
        again = work(client, flow.follow(judge, agent="again"), "again")
        work(client, flow.follow(again, agent="end"), "end")
    graph = recorded(server, flow.run.id)
    graph.assert_edges(
        {"plan": ["a0", "a1", "a2"], "a0": ["more"], "more": ["judge"], "a1": ["judge"], "a2": ["judge"]}
        | {"judge": ["again"], "again": ["end"]}
    )
    assert [fork.name for fork in graph.forks] == ["search"]
    assert graph.forks[0].joined


def test_what_is_collected_in_part_depends_on_that_part(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("flow") as flow:
        plan = work(client, flow.follow(agent="plan"), "plan")
        fan_out = plan.fan_out(3)
        begun = [work(client, flow.follow(plan, agent=f"a{n}", of=fan_out), "a") for n in range(3)]
        work(client, flow.follow(begun[0], begun[2], agent="first two"), "judge")
    graph = recorded(server, flow.run.id)
    graph.assert_edges({"plan": ["a0", "a1", "a2"], "a0": ["first two"], "a2": ["first two"]})
    assert graph.forks[0].joined  # at the end at the latest


def test_several_may_follow_one(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("flow") as flow:
        plan = work(client, flow.follow(agent="plan"), "plan")
        one, other = (work(client, flow.follow(plan, agent=name), name) for name in ("one", "other"))
        work(client, flow.follow(one, other, agent="end"), "end")
        work(client, flow.follow(agent="apart"), "apart")
    graph = recorded(server, flow.run.id)
    graph.assert_edges({"plan": ["one", "other"], "one": ["end"], "other": ["end"]})


# --- where they begin


def test_inside_a_program_they_are_part_of_it(server: RecordingServer, client: OpenAI) -> None:
    with program("mine") as run:
        ask(client, "before")
        with begin_scope("chain") as first, begin_scope("inner") as inner:
            assert first.run is inner.run is run
            call(client, inner, "a")
        one, other = begin_scope("one"), begin_scope("other")  # at once
        call(client, one, "b")
        call(client, other, "c")
        one.end()
        other.end()
        ask(client, "after")
    graph = recorded(server, run.id)
    assert edges(graph) == {("step", "a"), ("a", "b"), ("a", "c"), ("b", "step"), ("c", "step")}
    assert [graph.name for graph in server.graphs() if graph.name in ("chain", "one", "other")] == []


def test_a_thread_is_one_program() -> None:
    with (
        recording_server(Line("fine", times=None)) as server,
        OpenAI(base_url=server.base_url, api_key="k") as client,
    ):
        instrument(client)
        for number in range(2):
            with begin_scope("chat", thread="alice@example.org") as scope:
                call(client, scope, f"turn {number}")
        assert not scope.run.finished
        end_threads()
        graph = server.graph("chat")
    assert edges(graph) == {("turn 0", "turn 1")}
    assert graph.outcome == "ok"
    assert "alice" not in graph.id


def test_threads_are_kept_within_bounds() -> None:
    now = 0.0
    kept = KeptPrograms(clock=lambda: now)
    first = kept.run("chat", "1")
    assert kept.run("chat", "1") is first
    now += IDLE_SECONDS + 1
    kept.run("chat", "2")
    assert first.finished
    again = kept.run("chat", "1")
    assert again is not first
    assert again.id == first.id
    busy = Scope(again.root)
    again.root.scope = busy
    running = busy.open()
    for number in range(PROGRAMS_MAX + 5):
        kept.run("chat", f"more {number}")
    assert not again.finished
    running.end()
    kept.run("chat", "the last")
    assert again.finished
    assert len(kept._kept) == PROGRAMS_MAX


# --- what is declared beats what is inferred


def test_forks_and_labels_of_the_developer_stay(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("chain") as scope:
        run = scope.run
        call(client, scope, "plan")
        with scope.open(agent="node") as node, run.fork(2, name="mine") as fork:
            for number in range(2):
                with fork.branch():
                    call(client, node, f"own {number}")
                    assert node.fan_out(4) is None
        with scope.open(agent="node") as node, run.label(kind="judge", agent="me"), node.open(agent="leaf"):
            ask(client, "judge")
    graph = recorded(server, run.id)
    graph.assert_edges({"plan": ["own 0", "own 1"], "own 0": ["me/judge"], "own 1": ["me/judge"]})
    assert graph.assert_forked(2, name="mine").joined


def test_labels_of_the_developer_hold_for_all_scopes_within(server: RecordingServer, client: OpenAI) -> None:
    with program("labelled") as run:
        with begin_scope("chain", agent="before"):
            ask(client, "1")
        with (
            run.label(kind="judge"),
            begin_scope("chain", kind="act", agent="outer") as outer,
            outer.open() as node,
            node.open(agent="inner"),
        ):
            ask(client, "2")
        with begin_scope("chain", kind="act", agent="after") as outer, outer.open():
            ask(client, "3")
    graph = recorded(server, run.id)
    assert [step.label for step in graph.steps] == ["before", "inner/judge", "after/act"]
    graph.assert_sequential()


def test_a_program_of_the_developer_inside_is_its_own(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("chain") as scope:
        with program("inside") as run:
            call(client, scope, "a")
        call(client, scope, "b")
    assert [step.label for step in recorded(server, run.id).steps] == ["a"]
    assert [step.label for step in recorded(server, scope.run.id).steps] == ["b"]


# --- bounds and misuse


def test_ending_twice_and_too_wide_or_narrow_fan_outs() -> None:
    scope = begin_scope("odd\nname" * 100)
    assert scope.run.declared.name is not None
    assert scope.fan_out(1) is None
    assert scope.fan_out(10**9) is None
    fan_out = scope.fan_out(2, "x" * 10_000)
    assert isinstance(fan_out, FanOut)
    of = [scope.open(of=fan_out) for _ in range(3)]  # one more than was announced
    assert fan_out.started == 2
    for one in (*of, *of):
        one.end()
    assert fan_out.joined
    assert not scope.busy
    scope.end()
    scope.end("error")
    assert scope.run.finished


def test_the_current_scope() -> None:
    assert current_scope() is None
    with begin_scope("one") as outer:
        assert current_scope() is outer
        with outer.open() as inner:
            assert current_scope() is inner
        assert current_scope() is outer
        outer.end()
        assert current_scope() is None


def test_what_begins_within_a_label_is_part_of_the_scope_around_it(
    server: RecordingServer, client: OpenAI
) -> None:
    with program("labelled") as run, begin_scope("flow") as outer:
        call(client, outer, "a")
        with run.label(agent="mine"), begin_scope("inner") as inner:
            call(client, inner, "b")
        call(client, outer, "c")
    assert edges(recorded(server, run.id)) == {("a", "mine"), ("mine", "c")}


def test_what_a_run_of_a_thread_leaves_running_is_part_of_the_thread(
    server: RecordingServer, client: OpenAI
) -> None:
    async def main() -> str:
        over = asyncio.Event()

        async def rest() -> None:
            await over.wait()
            with begin_scope("rest") as scope:
                call(client, scope, "rest")

        with begin_scope("chat", thread="left running") as outer:
            call(client, outer, "first")
            left = asyncio.create_task(rest())
        over.set()
        await left
        return outer.run.id

    program_id = asyncio.run(main())
    end_threads()
    assert edges(recorded(server, program_id)) == {("first", "rest")}


def test_scopes_that_never_made_a_step_tell_nothing(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("quiet") as scope:
        call(client, scope, "a")
        for one in [scope.open(phase=1) for _ in range(50)]:
            one.end()
        call(client, scope, "b")
    graph = recorded(server, scope.run.id)
    assert edges(graph) == {("a", "b")}
    assert {branch.id for branch in graph.branches} == {"main"}


def test_calls_without_scopes_of_their_own(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("calls", agent="a") as scope:
        for _ in range(2):
            assert scope.begin_call()
            ask(client, "in sequence")
            scope.end_call()
        assert scope.begin_call("a")
        assert not scope.begin_call(), "it needs a branch of its own"
        with scope.open(agent="beside"):
            ask(client, "beside")
            assert not scope.begin_call(), "not in this scope"
        ask(client, "goes on")
        scope.end_call()
        assert not scope.begin_call("b"), "of another agent"
        with scope.run.label(agent="c"):
            assert not scope.begin_call(), "the developer's label is to hold"
        call(client, scope, "end")
    graph = recorded(server, scope.run.id)
    assert {(one.id, other.id) for one, other in graph.edges} == {
        ("s1", "s2"),
        ("s2", "s3"),
        ("s2", "s4"),
        ("s3", "s5"),
        ("s4", "s5"),
    }


def test_a_fan_out_is_waited_for_by_a_call_without_a_scope(server: RecordingServer, client: OpenAI) -> None:
    with begin_scope("calls") as scope:
        fan_out = scope.fan_out(2, "work")
        for _ in range(2):
            with scope.open(of=fan_out):
                ask(client, "work")
        assert scope.begin_call()
        ask(client, "end")
        scope.end_call()
    recorded(server, scope.run.id).assert_shape("fork(2: step) > step")


def test_open_scopes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_scopes, "OPEN_MAX", 3)
    known = OpenScopes()
    made: list[Any] = [begin_scope("p") for _ in range(5)]
    for number, scope in enumerate(made):
        known.put(number, scope)
    assert len(known) == 3
    assert [scope.ended for scope in made] == [True, True, False, False, False]
    assert known.get(0) is None
    known.end(2, "error")
    assert made[2].run.history.outcome == "error"
    known.end(2)
