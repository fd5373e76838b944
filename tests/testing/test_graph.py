"""The recorded graph, from hints and events alone."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import (
    BranchEnded,
    Event,
    ForkDeclared,
    ForkPosition,
    Hints,
    Joined,
    LoopPosition,
    Program,
    ProgramFinished,
    ProgramStarted,
    Step,
    Superseded,
    ToolFinished,
    ToolStarted,
)
from llmd_agents.testing import ProgramGraph, program_graphs

PROGRAM = Program(id="p1", name="essay", priority=70)


def step(step_id: str, kind: str | None = None, *parents: str, **members: Any) -> Hints:
    return Hints(program=PROGRAM, step=Step(id=step_id, kind=kind, parents=parents, **members))


def child(step_id: str, kind: str, parents: Iterable[str], fork: str, index: int, width: int) -> Hints:
    position = ForkPosition(id=fork, index=index, width=width)
    return step(step_id, kind, *parents, branch=f"{fork}.{index}", fork=position)


def forked(
    fork: str, width: int, *parents: str, branch: str = "main", name: str | None = None
) -> list[Event]:
    return [
        ForkDeclared(program="p1", at=1, branch=branch, fork=fork, width=width, name=name, parents=parents),
        Joined(program="p1", at=2, branch=branch, fork=fork),
    ]


def graph_of(*records: Hints | Event, failed: Iterable[str] = ()) -> ProgramGraph:
    (graph,) = program_graphs(records, failed={("p1", one) for one in failed})
    return graph


ESSAY: list[Hints | Event] = [
    ProgramStarted(program="p1", at=0, declared=PROGRAM),
    step("s1", "plan"),
    *forked("f1", 3, "s1", name="think"),
    child("s2", "think", ["s1"], "f1", 0, 3),
    child("s3", "think", ["s1"], "f1", 1, 3),
    step("s4", "check", "s3", branch="f1.1"),
    BranchEnded(program="p1", at=3, branch="f1.0"),
    BranchEnded(program="p1", at=3, branch="f1.1"),
    ToolStarted(program="p1", at=4, call="t1", tool="search", expected=2),
    ToolStarted(program="p1", at=5, call="t2", tool="fetch", branch="f1.0"),
    ToolFinished(program="p1", at=7.5, call="t1", tool="search"),
    step("s5", "judge", "f1"),
    step("s6", "write", "s5", loop=LoopPosition(id="draft-l1", iteration=0, limit=4)),
    step("s7", "write", "s6", loop=LoopPosition(id="draft-l1", iteration=1, limit=4)),
    step("s8", "act", "s7"),
    step("s9", "act", "s7"),
    step("s10", "end", "s8", "s9"),
    Superseded(program="p1", at=8, digest=bytes(16)),
    ProgramFinished(program="p1", at=9),
]


def test_the_whole_of_a_program() -> None:
    graph = graph_of(*ESSAY)
    assert (graph.id, graph.name, graph.priority, graph.outcome, graph.superseded) == (
        "p1",
        "essay",
        70,
        "ok",
        1,
    )
    assert [(one.id, other.id) for one, other in graph.edges] == [
        ("s1", "s2"),
        ("s1", "s3"),
        ("s3", "s4"),
        ("s2", "s5"),
        ("s4", "s5"),
        ("s5", "s6"),
        ("s6", "s7"),
        ("s7", "s8"),
        ("s7", "s9"),
        ("s8", "s10"),
        ("s9", "s10"),
    ]
    (fork,) = graph.forks
    assert (fork.width, fork.name, fork.branches, fork.joined) == (3, "think", ["f1.0", "f1.1"], True)
    outcomes = {branch.id: branch.outcome for branch in graph.branches}
    assert outcomes == {"main": "ok", "f1.0": "ok", "f1.1": "ok"}
    assert [(tool.name, tool.expected, tool.duration, tool.outcome) for tool in graph.tools] == [
        ("search", 2, 3.5, "ok"),
        ("fetch", None, None, None),
    ]
    assert graph.shape() == ESSAY_SHAPE
    assert graph.to_text() == ESSAY_TEXT


ESSAY_SHAPE = "plan > fork(think | think > check | -) > judge > loop(2: write) > together(2: act) > end"
ESSAY_TEXT = """\
program essay: ok
  superseded 1 times
  tools: search
  step plan
  fork think: 3 branches, joined
    1 × ok
      step think
      step check
    1 × ok
      tools: fetch (running)
      step think
    1 × without calls
  step judge
  step write, loop draft 1 of 4
  step write, loop draft 2 of 4
  together
    step act
    step act
  step end
edges
  act > end
  check > judge
  judge > write
  plan > think
  think > check
  think > judge
  write > act
  write > write"""


@given(st.permutations(ESSAY))
def test_neither_the_order_of_records_nor_repeats_show(records: list[Hints | Event]) -> None:
    again = [record for record in records if not isinstance(record, Hints)]
    assert graph_of(*records, *again).to_text() == ESSAY_TEXT


def test_labels() -> None:
    graph = graph_of(
        step("s1"),
        step("s2", "plan", agent="boss"),
        step("s3", None, agent="worker", model="m"),
        step("s4", "k"),
    )
    assert [one.label for one in graph.steps] == ["step", "boss/plan", "worker", "k"]
    other = graph.labelled(lambda one: one.model or one.id)
    assert [one.label for one in other.steps] == ["s1", "s2", "m", "s4"]
    assert [one.label for one in graph.steps] == ["step", "boss/plan", "worker", "k"]


def test_nested_forks_and_forks_without_calls() -> None:
    graph = graph_of(
        step("s1", "a"),
        *forked("f1", 2, "s1"),
        *forked("f2", 2, "s1", branch="f1.0"),
        child("s2", "b", ["s1"], "f2", 0, 2),
        child("s3", "b", ["s1"], "f2", 1, 2),
        child("s4", "c", ["f2"], "f1", 0, 2),
        child("s5", "d", ["s1"], "f1", 1, 2),
        *forked("f3", 5, "f1"),
        step("s6", "e", "f3"),
    )
    assert graph.shape() == "a > fork(d | fork(2: b) > c) > fork(5: -) > e"
    graph.assert_edges({"a": ["b", "d"], "b": ["c"], "c": ["e"], "d": ["e"]})


def test_a_fork_of_which_nothing_comes() -> None:
    graph = graph_of(
        step("s1", "a"),
        forked("h1", 1, "s1")[0],
        BranchEnded(program="p1", at=2, branch="h1.0", outcome="abandoned"),
        step("s2", "b", "s1"),
    )
    assert graph.shape() == "a > b"
    graph.assert_edges({"a": ["b"]})
    assert "fork" not in graph.to_text()
    assert not graph.assert_forked(1).joined


def test_a_fork_that_only_its_children_tell_of() -> None:
    graph = graph_of(
        step("s1", "a"),
        child("s2", "b", ["s1"], "f1", 0, 2),
        child("s3", "b", ["s1"], "f1", 1, 2),
        step("s4", "c", "f1"),
    )
    assert graph.shape() == "a > fork(2: b) > c"
    assert not graph.forks[0].joined
    assert graph.outcome is None


def test_a_join_of_some_waits_for_those_that_ended_well() -> None:
    records = [
        *forked("f1", 3),
        *(child(f"s{index}", f"b{index}", [], "f1", index, 3) for index in range(3)),
        BranchEnded(program="p1", at=3, branch="f1.1"),
        *(
            BranchEnded(program="p1", at=3, branch=f"f1.{index}", outcome=outcome)
            for index, outcome in ((0, "cancelled"), (2, "error"))
        ),
    ]
    graph_of(*records, step("s9", "best", "f1", join="any")).assert_edges({"b1": ["best"]})
    every = {"b0": ["best"], "b1": ["best"], "b2": ["best"]}
    graph_of(*records, step("s9", "best", "f1")).assert_edges(every)


def test_steps_that_failed_are_nobodys_parents() -> None:
    records = [step("s1", "a"), *forked("f1", 1, "s1"), child("s2", "b", ["s1"], "f1", 0, 1)]
    graph = graph_of(*records, step("s3", "c", "f1"), failed=["s2"])
    assert graph.shape() == "a > fork(b!) > c"
    graph.assert_edges({"a": ["b", "c"]})


def test_loops() -> None:
    def turn(step_id: str, kind: str, iteration: int, *parents: str) -> Hints:
        return step(step_id, kind, *parents, loop=LoopPosition(id="l1", iteration=iteration))

    graph = graph_of(
        turn("s1", "act", 0),
        *forked("f1", 1, "s1"),
        child("s2", "look", ["s1"], "f1", 0, 1),
        turn("s3", "act", 1, "f1"),
        turn("s4", "act", 2, "s3"),
        *forked("f2", 1, "s4"),
        child("s5", "look", ["s4"], "f2", 0, 1),
        step("s6", "end", "f2"),
    )
    assert graph.shape() == "loop(act > fork(look) | 2: act) > fork(look) > end"
    assert "step act, loop 2" in graph.to_text()


def test_branches_that_were_inferred() -> None:
    graph = graph_of(
        step("s1", "a", branch="b1"), step("s2", "b", branch="b2"), step("s3", "c", "s1", branch="b1")
    )
    assert graph.shape() == "a > c | b"
    assert graph.to_text().splitlines()[:6] == [
        "program essay: running",
        "  branch",
        "    step a",
        "    step c",
        "  branch",
        "    step b",
    ]


def test_steps_that_wait_for_each_other_by_way_of_another_branch_did_not_overlap() -> None:
    graph = graph_of(
        step("s1", "ask"),
        step("s2", "search", "s1", branch="b1"),
        step("s3", "read", "s2", branch="b2"),
        step("s4", "answer", "s3"),
    )
    assert graph.shape() == "ask > answer | read | search"
    assert "together" not in graph.to_text()


def test_several_programs() -> None:
    other = Hints(program=Program(id="p2"), step=Step(id="s1"))
    assert [(graph.id, graph.shape()) for graph in program_graphs([step("s1"), other])] == [
        ("p1", "step"),
        ("p2", "step"),
    ]
    assert program_graphs([]) == []


def test_assertions_that_hold() -> None:
    graph = graph_of(*ESSAY)
    graph.assert_shape(
        """
        plan > fork(think | think > check | -)
             > judge > loop(2: write) > together(2: act) > end
        """
    )
    assert graph.assert_forked(3) is graph.assert_forked(name="think") is graph.assert_forked()
    graph.assert_sequential("plan", "think", "judge", "end")
    graph.assert_sequential("write")
    graph.assert_parallel("think")
    graph.assert_parallel("act")
    graph.assert_tools(["search", "fetch"])
    graph.assert_tools({"fetch": 1, "search": 1})
    graph_of(step("s1"), step("s2", None, "s1")).assert_sequential()


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (
            lambda graph: graph.assert_shape("plan > fork(3: think)"),
            "program essay (p1) has another shape\n"
            "  expected: plan > fork(3: think)\n"
            "  recorded: " + ESSAY_SHAPE + "\n"
            "                        ^",
        ),
        (
            lambda graph: graph.assert_edges(
                {
                    "plan": ["judge"],
                    "think": ["check", "judge"],
                    "check": ["judge"],
                    "judge": ["write"],
                    "write": ["write", "act"],
                    "act": ["end"],
                }
            ),
            "program essay (p1) has other edges\n"
            "  - plan > judge   (expected, absent)\n"
            "  + plan > think   (recorded, not expected)\n"
            "  recorded: " + ESSAY_SHAPE,
        ),
        (
            lambda graph: graph.assert_forked(4, name="draft"),
            "program essay (p1) does not have one fork 'draft' of width 4\n"
            "  recorded forks: 'think' of width 3",
        ),
        (
            lambda graph: graph.assert_sequential(),
            "program essay (p1) is not sequential there\n"
            "  think (s3, branch f1.1) did not wait for think (s2, branch f1.0)\n"
            "  recorded: " + ESSAY_SHAPE,
        ),
        (
            lambda graph: graph.assert_sequential("judge", "plan"),
            "program essay (p1) is not sequential there\n"
            "  plan (s1, branch main) did not wait for judge (s5, branch main)\n"
            "  recorded: " + ESSAY_SHAPE,
        ),
        (
            lambda graph: graph.assert_parallel("think", "check"),
            "program essay (p1) is not parallel there\n"
            "  check (s4, branch f1.1) waited for think (s3, branch f1.1)\n"
            "  recorded: " + ESSAY_SHAPE,
        ),
        (
            lambda graph: graph.assert_parallel("plan"),
            "program essay (p1) has only one step labelled 'plan'",
        ),
        (
            lambda graph: graph.assert_parallel("dance"),
            "program essay (p1) has no step labelled 'dance'\n"
            "  recorded labels: 'act', 'check', 'end', 'judge', 'plan', 'think', 'write'",
        ),
        (
            lambda graph: graph.assert_tools(["fetch", "search"]),
            "program essay (p1) called other tools\n"
            "  expected: ['fetch', 'search']\n"
            "  recorded: ['search', 'fetch']",
        ),
        (
            lambda graph: graph.assert_tools({"fetch": 2}),
            "program essay (p1) called other tools\n"
            "  expected: {'fetch': 2}\n"
            "  recorded: {'search': 1, 'fetch': 1}",
        ),
    ],
)
def test_assertions_that_fail_say_why(check: Callable[[ProgramGraph], Any], said: str) -> None:
    with pytest.raises(AssertionError) as raised:
        check(graph_of(*ESSAY))
    assert str(raised.value) == said


def inner_fork(parents: Iterable[str] = ("s1",)) -> list[Event]:
    """A fork of two on the first branch of `f1`."""
    declared, joined = forked("f2", 2, *parents, branch="f1.0")
    position = ForkPosition(id="f1", index=0, width=2)
    return [declared.model_copy(update={"position": position}), joined]


@pytest.mark.parametrize("outer", [forked("f1", 2, "s1"), []])
def test_a_branch_that_is_nothing_but_a_fork(outer: list[Event]) -> None:
    graph = graph_of(
        *inner_fork(),
        *outer,
        step("s1", "plan"),
        child("s2", "think", ["s1"], "f2", 0, 2),
        child("s3", "look", ["s1"], "f1", 1, 2),
        step("s4", "judge", "f1"),
    )
    graph.assert_edges({"plan": ["think", "look"], "think": ["judge"], "look": ["judge"]})
    graph.assert_shape("plan > fork(fork(think | -) | look) > judge")
    assert "  fork: 2 branches, " in graph.to_text()
    branch = next(branch for branch in graph.branches if branch.id == "f1.0")
    assert (branch.fork, branch.index) == ("f1", 0)


def test_a_branch_that_is_nothing_but_a_fork_without_steps() -> None:
    graph = graph_of(
        *forked("f1", 2, "s1"),
        *inner_fork(),
        step("s1", "plan"),
        child("s2", "look", ["s1"], "f1", 1, 2),
        step("s3", "judge", "f1"),
    )
    graph.assert_edges({"plan": ["look"], "look": ["judge"]})


def test_nothing_waits_for_a_fork_that_was_not_joined() -> None:
    declared, _ = inner_fork(["s2"])
    graph = graph_of(
        *forked("f1", 2, "s1"),
        declared,
        step("s1", "plan"),
        child("s2", "look", ["s1"], "f1", 0, 2),
        child("s3", "aside", ["s2"], "f2", 0, 2),
        step("s4", "judge", "f1"),
    )
    graph.assert_edges({"plan": ["look"], "look": ["aside", "judge"]})


def test_a_step_without_an_answer_leaves_the_one_before_it() -> None:
    graph = graph_of(
        *forked("f1", 1, "s1"),
        step("s1", "plan"),
        child("s2", "think", ["s1"], "f1", 0, 1),
        child("s3", "think more", ["s2"], "f1", 0, 1),
        step("s4", "judge", "f1"),
        failed=["s3"],
    )
    graph.assert_edges({"plan": ["think"], "think": ["think more", "judge"]})


IDS = st.sampled_from(["main", "s1", "s2", "s3", "f1", "f2"])
HOSTILE = st.one_of(
    st.builds(
        lambda one, branch, parents, fork: step(
            one,
            None,
            *parents,
            branch=branch,
            fork=None if fork is None else ForkPosition(id=fork, index=0, width=2),
        ),
        IDS,
        IDS,
        st.lists(IDS, max_size=3),
        st.none() | IDS,
    ),
    st.builds(
        lambda fork, branch, parents, outer: ForkDeclared(
            program="p1",
            at=1,
            fork=fork,
            branch=branch,
            parents=tuple(parents),
            width=2,
            position=None if outer is None else ForkPosition(id=outer, index=0, width=2),
        ),
        IDS,
        IDS,
        st.lists(IDS, max_size=3),
        st.none() | IDS,
    ),
    st.builds(lambda fork: Joined(program="p1", at=1, fork=fork), IDS),
)


@given(st.lists(HOSTILE, min_size=1, max_size=12))
def test_records_that_contradict_each_other_still_make_a_graph(records: list[Hints | Event]) -> None:
    graph = graph_of(*records)
    assert graph.shape()
    assert graph.to_text().startswith("program ")
    assert all(one in graph.steps for edge in graph.edges for one in edge)
    for parallel in (graph.assert_parallel, graph.assert_sequential):
        try:
            parallel("step")
        except AssertionError as error:
            assert str(error).startswith("program ")  # noqa: PT017
