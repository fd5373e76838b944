"""Tools are waited for from the answer that asks for them, whoever runs them."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents import tool, tool_call
from llmd_agents.client import asked as asked_tools
from llmd_agents.client import declared_tools, durations
from llmd_agents.client.clock import use_clock
from llmd_agents.client.durations import ToolDurations
from llmd_agents.hints import Lifetime
from tests.client.listening import ToolObserver, listening, observing


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def learned(monkeypatch: pytest.MonkeyPatch) -> ToolDurations:
    found = ToolDurations()
    monkeypatch.setattr(durations, "_learned", found)
    monkeypatch.setattr(declared_tools, "_declared", type(declared_tools._declared)())
    return found


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with use_clock(clock):
        yield clock


def test_the_forecast_goes_out_with_the_answer_and_the_tool_takes_the_call_over(clock: Clock) -> None:
    @tool(expected="5s", sigma=0.2, result_lifetime="step")
    def search() -> None:
        clock.now += 3

    watcher = ToolObserver()
    with listening() as (run, told), observing(watcher):
        run.root.asked.asked("s1", [("call_abc", "search")])
        assert told.tools == ["+search"]
        assert watcher.told == []
        clock.now += 1
        search()
        assert run.root.asked.lifetime_of("call_abc") is Lifetime.STEP
        run.root.asked.resulted(["call_abc"])
    (started,), (finished,), (record,) = told.started, told.finished, run.history.tools
    assert (started.call, started.at, started.expected, started.sigma) == ("call_abc", 1000.0, 5.0, 0.2)
    assert started.result_lifetime is Lifetime.STEP
    assert (finished.call, finished.at, finished.outcome) == ("call_abc", 1004.0, "ok")
    assert (record.call, record.asked_by, record.started, record.ended) == ("call_abc", "s1", 1.0, 4.0)
    assert watcher.told == told.tools == ["+search", "-search ok"]


def test_a_tool_that_nobody_declared_is_learned_from_when_its_result_is_sent(
    clock: Clock, learned: ToolDurations
) -> None:
    watcher = ToolObserver()
    with listening() as (run, told), observing(watcher):
        for turn in range(4):
            run.root.asked.asked(f"s{turn}", [(f"c{turn}", "shell")])
            clock.now += 20
            run.root.asked.resulted([f"c{turn}"])
            run.root.asked.resulted([f"c{turn}", "of another program"])
        assert watcher.current.get() is None
    assert [event.expected for event in told.started] == [None, None, None, 20.0]
    assert told.tools == watcher.told == ["+shell", "-shell ok"] * 4
    assert [(record.started, record.ended) for record in run.history.tools] == [
        (0.0, 20.0), (20.0, 40.0), (40.0, 60.0), (60.0, 80.0),
    ]  # fmt: skip


def test_a_wait_for_several_tools_teaches_nothing_about_any(clock: Clock, learned: ToolDurations) -> None:
    with listening() as (run, told):
        for _ in range(3):
            run.root.asked.asked("s1", [("a", "shell"), ("b", "browse")])
            run.root.asked.asked("s1", [("c", "read"), ("d", "read")])
            clock.now += 5
            run.root.asked.resulted(["a", "b", "c", "d"])
    assert [event.outcome for event in told.finished] == ["ok"] * 12
    assert learned.expect("shell") is learned.expect("browse") is None
    # Calls of one tool count as one wait.
    assert (found := learned.expect("read")) is not None
    assert (found.samples, found.median_s) == (3, 5.0)


def test_a_decorated_tool_is_not_learned_twice(clock: Clock, learned: ToolDurations) -> None:
    @tool
    def search() -> None:
        clock.now += 2

    with listening() as (run, _):
        for turn in range(3):
            run.root.asked.asked("s", [(f"c{turn}", "search")])
            clock.now += 100  # something else is done first, and the tool runs where no program is known
            threading.Thread(target=search).run()
            threads = threading.Thread(target=search)
            threads.start()
            threads.join()
            run.root.asked.resulted([f"c{turn}"])
    found = learned.expect("search")
    assert found is not None
    assert (found.samples, found.median_s) == (6, 2.0)


def test_parallel_calls_are_each_their_own() -> None:
    @tool
    async def search(query: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return query

    async def main() -> None:
        await asyncio.gather(search("a", 0.02), search("b", 0), search("unasked", 0))

    with listening() as (run, told):
        run.root.asked.asked("s1", [("c1", "search"), ("c2", "search"), ("c3", "fetch")])
        asyncio.run(main())
    assert [event.call for event in told.started] == ["c1", "c2", "c3", "t1"]
    assert [event.call for event in told.finished] == ["c2", "t1", "c1", "c3"]
    assert [record.asked_by for record in run.history.tools] == ["s1", "s1", "s1", None]
    assert told.finished[3].outcome == "abandoned"


def test_a_call_named_by_its_id() -> None:
    with listening() as (run, told):
        run.root.asked.asked("s1", [("c1", "search"), ("c2", "search")])
        with tool_call("search", call_id="c2"):
            assert told.tools == ["+search", "+search"]
        with tool_call("search", call_id="c9"):
            pass
    assert [(event.call, event.outcome) for event in told.finished] == [
        ("c2", "ok"), ("t1", "ok"), ("c1", "abandoned"),
    ]  # fmt: skip


def test_tools_that_run_on_branches_of_their_own() -> None:
    @tool
    def search(index: int) -> int:
        return index

    with listening() as (run, told):
        run.root.asked.asked("s1", [("c1", "search"), ("c2", "search")])
        with run.fork(3) as fork:
            assert fork.map(search, [1, 2, 3]) == [1, 2, 3]
    # Two take over what the branch before the fork was asked for; the third is a call of its own branch.
    assert sorted((event.call, event.branch) for event in told.finished) == [
        ("c1", "main"), ("c2", "main"), ("t1", told.started[2].branch),
    ]  # fmt: skip
    assert told.started[2].branch.startswith("f1.")


def test_a_failed_tool_that_is_tried_again() -> None:
    attempts = iter([OSError("gone"), None])

    @tool
    def search() -> None:
        if (error := next(attempts)) is not None:
            raise error

    with listening() as (run, told):
        run.root.asked.asked("s1", [("c1", "search")])
        with pytest.raises(OSError, match="gone"):
            search()
        search()
    assert [(event.call, event.outcome) for event in told.finished] == [("c1", "error"), ("t1", "ok")]


def test_ids_that_a_model_makes_up() -> None:
    ids = ["call_1", "", "ünicode", "two\nlines", "x" * 10_000_000, "x" * 64, "-begins"]
    with listening() as (run, told):
        run.root.asked.asked("s1", [(call_id, "t") for call_id in ids])
        run.root.asked.resulted(ids)
    assert [event.call for event in told.started] == ["call_1", "t1", "t2", "t3", "t4", "x" * 64, "t5"]
    assert [event.call for event in told.finished] == [event.call for event in told.started]


def test_a_server_that_numbers_calls_anew_in_each_answer() -> None:
    with listening() as (run, told):
        for step in ("s1", "s2"):
            run.root.asked.asked(step, [("call_0", "search")])
            run.root.asked.asked(step, [("call_0", "search")])  # the same answer seen again
            run.root.asked.resulted(["call_0"])
    assert told.tools == ["+search", "-search ok"] * 2
    assert [record.asked_by for record in run.history.tools] == ["s1", "s2"]


def test_what_is_remembered_is_bounded() -> None:
    @tool(result_lifetime="step")
    def search() -> None: ...

    with listening() as (run, told):
        asked = run.root.asked
        for turn in range(8):
            asked.asked("s", [(f"c{turn}-{index}", "search") for index in range(asked_tools.OPEN_MAX + 1)])
        assert len(asked._open) == asked_tools.OPEN_MAX
        assert len(asked._lifetimes) == asked_tools.LIFETIMES_MAX
        assert len(told.started) == 8 * asked_tools.OPEN_MAX
        assert {event.outcome for event in told.finished} == {"abandoned"}
        assert len(told.finished) == 7 * asked_tools.OPEN_MAX
        assert asked.lifetime_of("c0-0") is None
        assert asked.lifetime_of("c7-0") is Lifetime.STEP
        asked.close()
        asked.close()
    assert len(told.finished) == 8 * asked_tools.OPEN_MAX


def test_calls_end_with_their_branch() -> None:
    with listening() as (run, told), run.fork(1) as fork, fork.branch() as branch:
        branch.asked.asked("s1", [("c1", "search")])
        run.root.asked.asked("s2", [("c2", "human")])
    assert [(event.call, event.branch) for event in told.finished] == [("c1", "f1.0"), ("c2", "main")]
    assert {event.outcome for event in told.finished} == {"abandoned"}


@given(st.lists(st.tuples(st.text(), st.text())), st.lists(st.text()))
def test_any_names_and_ids(calls: list[tuple[str, str]], results: list[str]) -> None:
    with listening() as (run, told):
        run.root.asked.asked("s1", calls)
        run.root.asked.resulted(results)
        run.root.asked.close()
    assert len(told.started) == len(told.finished) == len({call_id for call_id, _ in calls})


def test_garbage_is_no_call() -> None:
    garbage: Any = [(None, "t"), ({}, []), 3]
    with listening() as (run, told):
        run.root.asked.asked("s1", garbage)
        run.root.asked.asked("s1", garbage[1:])
        run.root.asked.resulted(garbage)
    assert told.events[-1].type == "program_finished"
