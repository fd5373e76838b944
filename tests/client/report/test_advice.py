"""What is told to be worth changing."""

from typing import Any

import pytest

from llmd_agents.client.history import History
from llmd_agents.client.report import Advice, report_of
from llmd_agents.hints import Ack, Rejection
from llmd_agents.linter import Cause, Divergence, Prices
from tests.client.report.histories import fork, history, on, step, tool


def advice(of: History) -> list[tuple[str, float | None, int | None]]:
    return [(one.what, one.seconds, one.tokens) for one in report_of(of).advice]


def only(of: History) -> Advice:
    (one,) = report_of(of).advice
    return one


def changed(tokens: int) -> Divergence:
    return Divergence(
        branch="main",
        model="m",
        cause=Cause.TIMESTAMP,
        message=0,
        role="system",
        field="content",
        byte=812,
        what="a time changed in the system prompt",
        kept_bytes=100,
        lost_bytes=tokens * 4,
        lost_tokens=tokens,
    )


def test_a_prompt_that_changes() -> None:
    story = history(3.0)
    step(story, "s1", 0.0, 1.0, input_tokens=50_000)
    for name, tokens in (("s2", 40_000), ("s3", 42_000)):
        step(story, name, 1.0, 3.0, "s1", input_tokens=50_000, divergence=changed(tokens))
    report = report_of(story, prices=Prices(input=2.0, cached=0.0))
    assert report.advice == (
        Advice(
            "Keep the prompt as it was: it changes at message 0, byte 812.",
            "A time changed in the system prompt: 41,000 tokens were computed again in each of 2 steps, "
            "about $0.16. Leave the time out, round it to the day, or put it into the newest message.",
            None,
            82_000,
            82_000 / 150_000,
        ),
    )
    assert [(one.cause, one.steps, one.tokens) for one in report.breaks] == [
        ("timestamp", ("s2", "s3"), 82_000)
    ]


def test_branches_that_run_one_after_another() -> None:
    story = history(30.0)
    made = fork(story, "f1", [(0.0, 10.0), (10.0, 18.0), (18.0, 30.0)], called="grade")
    for index, branch in enumerate(story.branches):
        step(story, f"s{index}", branch.started, branch.ended, **on(made, index))
    first = report_of(story).advice[0]
    assert first.what == "Run the branches of fork grade at the same time."
    assert first.why.startswith("Its 3 branches ran one after another, in 30.0 s; the longest took 12.0 s.")
    assert first.seconds == 18.0


def test_branches_under_a_limit() -> None:
    story = history(4.0)
    made = fork(story, "f1", [(0.0, 2.0), (0.0, 2.0), (2.0, 4.0), (2.0, 4.0)])
    for index, branch in enumerate(story.branches):
        step(story, f"s{index}", branch.started, branch.ended, **on(made, index))
    assert "ran at most 2 at a time, in 4.00 s; the longest took 2.00 s. Raise the limit" in only(story).why


def test_one_branch_that_all_others_wait_for() -> None:
    story = history(20.0)
    made = fork(story, "f1", [(0.0, 4.0)] * 7 + [(0.0, 16.0)], called="draft")
    for index, branch in enumerate(story.branches):
        step(story, f"s{index}", 0.0, branch.ended, **on(made, index))
    step(story, "last", 16.0, 20.0, "f1")
    assert advice(story) == [
        ("Join fork draft without waiting for the slowest of its 8 branches.", 12.0, None)
    ]
    assert "join=7" in only(story).why


@pytest.mark.parametrize(
    ("expected", "saved", "said"),
    [
        (5.0, 16.0, "; expected 5.00 s, took 21.0 s in the median"),
        (20.0, 21.0, "; expected 20.0 s, took 21.0 s in the median"),
        (None, 21.0, ""),
    ],
)
def test_a_tool_that_takes_most_of_the_time(expected: float | None, saved: float, said: str) -> None:
    story = history(30.0)
    step(story, "s1", 0.0, 4.0)
    tool(story, "t1", "search", 4.0, 25.0, expected=expected)
    step(story, "s2", 25.0, 30.0, "s1")
    assert advice(story) == [("Make tool search faster, call it earlier, or keep its results.", saved, None)]
    assert only(story).why == f"It is 70 % of the critical path, in 1 call{said}."


def test_tools_of_one_answer_that_run_one_after_another() -> None:
    story = history(10.0)
    step(story, "s1", 0.0, 1.0)
    for index in range(3):
        tool(story, f"t{index}", "fetch", 1.0 + 2 * index, 3.0 + 2 * index, asked_by="s1")
    step(story, "s2", 7.0, 10.0, "s1")
    assert ("Run the tools that one answer asks for at the same time.", 4.0, None) in advice(story)


def test_a_cache_that_lost_what_it_had() -> None:
    story = history(3.0)
    more: dict[str, Any] = {"extends": b"x" * 16, "prompt_bytes": 40_000, "new_bytes": 4_000}
    step(story, "s1", 0.0, 1.0, input_tokens=9_000, cached_tokens=0, prompt_bytes=36_000)
    step(story, "s2", 1.0, 3.0, "s1", input_tokens=10_000, cached_tokens=1_000, **more)
    step(story, "s3", 1.0, 3.0, "s1", input_tokens=10_000, cached_tokens=8_900, **more)
    assert advice(story) == [("Let the server find what it has computed before.", None, 8_000)]


def test_code_of_its_own() -> None:
    story = history(10.0)
    step(story, "s1", 0.0, 1.0)
    step(story, "s2", 8.0, 10.0, "s1")
    assert advice(story) == [("Look at what your own code does after s1.", 7.0, None)]


def test_hints_that_are_refused_come_last() -> None:
    story = history(1.0)
    ack = Ack(rejected=(Rejection("fork", "width: too large"),))
    step(story, "s1", 0.0, 1.0, ack=ack)
    assert advice(story) == [("Correct the hint fork, which the server does not use.", None, None)]


def test_nothing_to_change() -> None:
    story = history(2.0)
    step(story, "s1", 0.0, 1.0, input_tokens=100, cached_tokens=0)
    step(story, "s2", 1.0, 2.0, "s1", input_tokens=200, cached_tokens=100)
    assert advice(story) == []


def test_at_most_three_the_best_first() -> None:
    story = history(100.0)
    step(story, "s1", 0.0, 1.0, input_tokens=1000)
    tool(story, "t1", "search", 1.0, 31.0, asked_by="s1")
    tool(story, "t2", "fetch", 31.0, 51.0, asked_by="s1")
    step(story, "s2", 61.0, 62.0, "s1", input_tokens=1000, divergence=changed(900))
    made = fork(story, "f1", [(62.0, 65.0), (65.0, 68.0)], "s2")
    step(story, "s3", 62.0, 65.0, "s2", **on(made, 0))
    step(story, "s4", 65.0, 68.0, "s2", **on(made, 1))
    found = report_of(story).advice
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert len(found) == 3
    assert found[0].tokens == 900
