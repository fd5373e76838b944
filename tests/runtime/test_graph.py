from typing import Any

import pytest

from llmd_agents.hints import (
    BranchEnded,
    Event,
    ForkDeclared,
    ForkPosition,
    Hints,
    Joined,
    Program,
    ProgramFinished,
    ProgramStarted,
    Step,
)
from llmd_agents.hints.events import ToolFinished, ToolStarted
from llmd_agents.runtime import ProgramGraph, ProgramRecord
from llmd_agents.runtime import graph as graph_module

PROGRAM = Program(id="p", name="test")


def add(graph: ProgramGraph, step_id: str, branch: str = "main", **declared: Any) -> None:
    if "." in branch:
        fork, _, index = branch.rpartition(".")
        declared.setdefault("fork", ForkPosition(id=fork, index=int(index), width=9))
    hints = Hints(program=PROGRAM, step=Step(id=step_id, branch=branch, **declared))
    graph.step(hints, None, now=1.0)
    graph.answered("p", hints.step)


def edges(graph: ProgramGraph) -> set[str]:
    return {f"{a}>{b}" for a, b in record(graph).edges()}


def record(graph: ProgramGraph) -> ProgramRecord:
    found = graph.get("p")
    assert found is not None
    return found


def test_a_fork_as_parent_stands_for_the_last_steps_of_its_branches() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    add(graph, "s2", "f1.0", parents=("s1",))
    add(graph, "s3", "f1.0", parents=("s2",))
    add(graph, "s4", "f1.1", parents=("s1",))
    add(graph, "s5", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s2>s3", "s1>s4", "s3>s5", "s4>s5"}


@pytest.mark.parametrize("events_late", [False, True])
def test_a_fork_inside_a_branch(events_late: bool) -> None:
    graph = ProgramGraph()
    events: list[Event] = [
        ForkDeclared(program="p", at=1, branch="f1.0", fork="f2", width=2, parents=("s2",)),
        Joined(program="p", at=2, branch="f1.0", fork="f2"),
    ]
    add(graph, "s1")
    add(graph, "s2", "f1.0", parents=("s1",))
    if not events_late:
        graph.apply(events[0], 1.0)
    add(graph, "s3", "f2.0", parents=("s2",))
    add(graph, "s4", "f2.1", parents=("s2",))
    for event in events[events_late is False :]:
        graph.apply(event, 2.0)
    add(graph, "s5", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s2>s3", "s2>s4", "s3>s5", "s4>s5"}


INNER = ForkDeclared(
    program="p",
    at=1,
    branch="f1.0",
    fork="f2",
    width=2,
    parents=("s1",),
    position=ForkPosition(id="f1", index=0, width=2),
)


@pytest.mark.parametrize("late", [False, True])
def test_a_branch_that_is_nothing_but_a_fork(late: bool) -> None:
    graph = ProgramGraph()
    outer = ForkDeclared(program="p", at=1, fork="f1", width=2, name="both", parents=("s1",))
    add(graph, "s1")
    add(graph, "s2", "f2.0", parents=("s1",))
    add(graph, "s3", "f1.1", parents=("s1",))
    for event in (INNER, outer) if late else (outer, INNER):
        graph.apply(event, 1.0)
    graph.apply(Joined(program="p", at=2, branch="f1.0", fork="f2"), 2.0)
    add(graph, "s4", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s1>s3", "s2>s4", "s3>s4"}
    fork, branch = record(graph).forks["f1"], record(graph).branches["f1.0"]
    assert (fork.name, fork.branches) == ("both", {0: "f1.0", 1: "f1.1"})
    assert (branch.fork, branch.index, branch.steps) == ("f1", 0, 0)


def test_a_branch_that_is_nothing_but_a_fork_without_steps() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    graph.apply(ForkDeclared(program="p", at=1, fork="f1", width=2, parents=("s1",)), 1.0)
    graph.apply(INNER, 1.0)
    graph.apply(Joined(program="p", at=2, branch="f1.0", fork="f2"), 2.0)
    add(graph, "s2", "f1.1", parents=("s1",))
    add(graph, "s3", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s2>s3"}


def test_the_first_word_on_where_a_branch_is_counts() -> None:
    graph = ProgramGraph()
    add(graph, "s1", "f1.0", parents=())
    position = ForkPosition(id="f9", index=4, width=5)
    graph.apply(INNER.model_copy(update={"position": position}), 1.0)
    assert record(graph).branches["f1.0"].fork == "f1"
    assert record(graph).forks.keys() == {"f1", "f2"}


def test_a_join_that_is_told_after_the_next_step() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    add(graph, "s2", "f1.0", parents=("s1",))
    add(graph, "s3", "f2.0", parents=("s2",))
    add(graph, "s4", "f1.0", parents=("f2",))
    graph.apply(ForkDeclared(program="p", at=1, branch="f1.0", fork="f2", width=1, parents=("s2",)), 1.0)
    graph.apply(Joined(program="p", at=2, branch="f1.0", fork="f2"), 2.0)
    add(graph, "s5", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s2>s3", "s3>s4", "s4>s5"}


def test_a_fork_without_steps_leaves_what_it_started_from() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    graph.apply(ForkDeclared(program="p", at=1, fork="f1", width=2, parents=("s1",)), 1.0)
    graph.apply(Joined(program="p", at=1, fork="f1"), 1.0)
    add(graph, "s2", parents=("f1",))
    assert edges(graph) == {"s1>s2"}


def test_forks_that_name_each_other_do_not_hang() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    for fork, other in (("f1", "f2"), ("f2", "f1")):
        graph.apply(ForkDeclared(program="p", at=1, fork=fork, width=1, parents=(other,)), 1.0)
    add(graph, "s2", parents=("f1", "f2", "nowhere"))
    assert edges(graph) == set()


def test_a_retry_is_the_same_step() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    add(graph, "s1")
    assert [(step.declared.id, step.attempts) for step in record(graph).steps.values()] == [("s1", 2)]
    assert record(graph).branches["main"].steps == 1


def test_events_of_unknown_programs_are_refused() -> None:
    graph = ProgramGraph()
    graph.apply(ProgramStarted(program="p", at=1, declared=PROGRAM), 1.0)
    end = ProgramFinished(program="p", at=2)
    unknown = graph.apply(ProgramFinished(program="q", at=2), 2.0)
    assert unknown is not None
    assert unknown.reason == "unknown program"
    assert graph.apply(end, 2.0) is None
    assert record(graph).outcome == "ok"
    mixed = ProgramStarted(program="q", at=1, declared=PROGRAM)
    assert graph.apply(mixed, 1.0) is not None


def test_tools_and_branches() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    graph.apply(ToolStarted(program="p", at=10, call="t1", tool="search", expected=5), 10.0)
    graph.apply(ToolFinished(program="p", at=12, call="t1", tool="search", outcome="error"), 12.0)
    graph.apply(BranchEnded(program="p", at=0, branch="main"), 13.0)
    (call,) = record(graph).tools
    assert (call.started_at, call.finished_at, call.outcome, call.expected) == (10.0, 12.0, "error", 5)
    assert record(graph).branches["main"].outcome == "ok"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "STEPS_PER_PROGRAM_MAX", 3)
    monkeypatch.setattr(graph_module, "BRANCHES_PER_PROGRAM_MAX", 2)
    graph = ProgramGraph(most=2, most_steps=100)
    for number in range(10):
        add(graph, f"s{number}", f"f{number}.0")
    assert list(record(graph).steps) == ["s7", "s8", "s9"]
    assert record(graph).forgotten == 7
    assert len(record(graph).branches) == 2
    for name in "xyz":
        graph.apply(ProgramStarted(program=name, at=1, declared=Program(id=name)), 1.0)
    assert len(graph) == 2
    assert graph.get("p") is None


def test_long_chains_of_forks_cost_no_recursion() -> None:
    graph = ProgramGraph()
    add(graph, "s0")
    for number in range(5_000):
        parents = (f"f{number - 1}",) if number else ("s0",)
        fork = ForkDeclared(program="p", at=1, fork=f"f{number}", width=1, parents=parents)
        graph.apply(fork, 1.0)
    add(graph, "s1", parents=("f4999",))
    assert edges(graph) == {"s0>s1"}


def test_forks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "FORKS_PER_PROGRAM_MAX", 3)
    monkeypatch.setattr(graph_module, "EDGE_WORK_MAX", 50)
    graph = ProgramGraph()
    add(graph, "s0")
    for number in range(10):
        graph.apply(ForkDeclared(program="p", at=1, fork=f"f{number}", width=2), 1.0)
        for branch in range(5):
            position = ForkPosition(id="f9", index=branch % 2, width=2)
            add(graph, f"s{number}x{branch}", f"b{number}x{branch}", fork=position, parents=("s0",))
    assert sorted(record(graph).forks) == ["f7", "f8", "f9"]
    assert len(record(graph).forks["f9"].branches) == 2
    assert len(edges(graph)) <= 50


def test_steps_of_all_programs_together_are_bounded() -> None:
    graph = ProgramGraph(most_steps=10)
    for number in range(30):
        hints = Hints(program=Program(id=f"p{number // 4}"), step=Step(id=f"s{number}"))
        graph.step(hints, None, now=1.0)
    assert [graph.get(f"p{number}") is not None for number in range(8)] == [False] * 5 + [True] * 3


def test_a_branch_whose_steps_name_no_parents_stays_small() -> None:
    graph = ProgramGraph()
    for number in range(1000):
        add(graph, f"s{number}")
    assert len(record(graph).branches["main"].frontier) == 64


def test_a_step_that_failed_is_no_ones_parent() -> None:
    graph = ProgramGraph()
    add(graph, "s1")
    position = ForkPosition(id="f1", index=0, width=1)
    add(graph, "s2", "f1.0", parents=("s1",))
    lost = Step(id="s3", branch="f1.0", parents=("s2",), fork=position)
    graph.step(Hints(program=PROGRAM, step=lost), None, now=1.0)
    add(graph, "s4", parents=("f1",))
    assert edges(graph) == {"s1>s2", "s2>s3", "s2>s4"}


def test_unknown_members_are_not_kept() -> None:
    graph = ProgramGraph()
    declared = Program.model_validate({"id": "p", "name": "n", "huge": "x" * 1000})
    graph.apply(ProgramStarted(program="p", at=1, declared=declared), 1.0)
    assert record(graph).declared.model_extra == {}
