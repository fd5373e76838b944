"""What a program's duration consisted of."""

from llmd_agents.client.history import History
from llmd_agents.client.report import report_of
from tests.client.report.histories import fork, history, on, step, tool


def path(of: History) -> list[tuple[str, str | None, float, float]]:
    return [(part.what, part.id, part.started, part.ended) for part in report_of(of).path]


def test_a_chain_with_a_tool_and_code_of_its_own() -> None:
    story = history(10.0)
    step(story, "s1", 1.0, 3.0)
    tool(story, "t1", "search", 3.5, 5.0)
    step(story, "s2", 5.0, 9.0, "s1")
    assert path(story) == [
        ("own", None, 0.0, 1.0),
        ("model", "s1", 1.0, 3.0),
        ("own", None, 3.0, 3.5),
        ("tool", "t1", 3.5, 5.0),
        ("model", "s2", 5.0, 9.0),
        ("own", None, 9.0, 10.0),
    ]
    time = report_of(story).time
    assert (time.model, time.tool, time.own, time.parallelism) == (6.0, 1.5, 2.5, 0.75)


def test_a_join_waits_for_the_slowest_branch() -> None:
    story = history(9.0)
    step(story, "s1", 0.0, 1.0)
    made = fork(story, "f1", [(1.0, 3.0), (1.0, 6.0)], "s1")
    step(story, "s2", 1.0, 3.0, "s1", **on(made, 0))
    step(story, "s3", 1.0, 5.0, "s1", **on(made, 1))
    step(story, "s4", 6.0, 9.0, "f1")
    assert path(story) == [
        ("model", "s1", 0.0, 1.0),
        ("model", "s3", 1.0, 5.0),
        ("own", None, 5.0, 6.0),
        ("model", "s4", 6.0, 9.0),
    ]
    assert report_of(story).steps[-1].after == ("f1",)
    assert report_of(story).forks[0].ends == ("s2", "s3")


def test_a_join_of_the_first_waits_for_the_winner() -> None:
    story = history(5.0)
    made = fork(story, "f1", [(0.0, 2.0), (0.0, 2.1)], join="any", outcomes=["ok", "cancelled"])
    step(story, "s1", 0.0, 2.0, **on(made, 0))
    step(story, "s2", 0.0, 2.1, outcome="cancelled", **on(made, 1))
    step(story, "s3", 2.2, 5.0, "f1")
    assert [part[1] for part in path(story)] == ["s1", None, "s3"]


def test_a_branch_that_waited_for_its_place() -> None:
    story = history(6.0)
    made = fork(story, "f1", [(0.0, 2.0), (0.0, 3.0), (2.01, 6.0)])
    step(story, "s1", 0.0, 2.0, **on(made, 0))
    step(story, "s2", 0.0, 3.0, **on(made, 1))
    step(story, "s3", 2.01, 6.0, **on(made, 2))
    assert [part[1] for part in path(story)] == ["s1", None, "s3"]


def test_a_nested_fork_and_a_tool_at_the_end_of_a_branch() -> None:
    story = history(10.0)
    outer = fork(story, "f1", [(0.0, 7.0)])
    step(story, "s1", 0.0, 1.0, **on(outer, 0))
    inner = fork(story, "f2", [(1.0, 4.0), (1.0, 3.0)], "s1", branch="f1.0")
    step(story, "s2", 1.0, 4.0, "s1", **on(inner, 0))
    step(story, "s3", 1.0, 3.0, "s1", **on(inner, 1))
    tool(story, "t1", "save", 4.0, 7.0, branch="f1.0")
    step(story, "s4", 7.0, 10.0, "f1")
    assert [part[1] for part in path(story)] == ["s1", "s2", "t1", "s4"]
    assert [one.ends for one in report_of(story).forks] == [("s2", "s3"), ("s2", "s3")]


def test_siblings_on_one_branch() -> None:
    story = history(6.0)
    step(story, "s1", 0.0, 3.0)
    step(story, "s2", 0.0, 5.0)
    step(story, "s3", 5.0, 6.0, "s1", "s2")
    assert [part[1] for part in path(story)] == ["s2", "s3"]


def test_a_program_without_steps_is_its_own_code() -> None:
    assert path(history(2.0)) == [("own", None, 0.0, 2.0)]
    assert path(history(0.0)) == []


def test_a_running_program_is_told_as_far_as_it_went() -> None:
    story = history(None)
    step(story, "s1", 0.0, None, outcome=None)
    report = report_of(story)
    assert report.outcome is None
    assert report.seconds == report.steps[0].ended
    assert [part.id for part in report.path] == ["s1"]
