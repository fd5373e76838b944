"""Forks: what is waited for, what becomes of the rest, and what the next step says of it."""

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmd_agents import program
from llmd_agents.client.branch import Branch
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


def test_any_takes_the_first_success_and_cancels_the_rest(wire: Wire) -> None:
    async def child(text: str) -> str:
        await wire.acall(text)
        if text == "bad":
            raise ValueError(text)
        if text != "quick":
            await asyncio.Event().wait()
        return text

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            async with run.fork(4, join="any") as fork:
                assert await fork.map(child, ["slow", "bad", "quick", "slower"]) == ["quick"]
                assert fork.winners == (2,)
                # Ended when the race was decided, not when the block is left.
                assert wire.outcomes["f1.0"] == "cancelled"
            await wire.acall("after")
            await wire.acall("later")

    asyncio.run(main())
    assert wire.outcomes == {"f1.0": "cancelled", "f1.1": "error", "f1.2": "ok", "f1.3": "cancelled"}
    assert wire.told[-2:] == ["joined", "program_finished"]
    assert (wire.parents("after"), wire.step("after").join) == ({"f1"}, "any")
    assert (wire.parents("later"), wire.step("later").join) == ({"after"}, None)


def test_k_of_n_in_the_order_in_which_they_finish(wire: Wire) -> None:
    async def child(delay: int) -> int:
        for _ in range(delay):
            await asyncio.sleep(0)
        return delay

    async def main() -> None:
        async with program("p") as run:
            async with run.fork(4, join=2) as fork:
                assert await fork.map(child, [30, 3, 20, 1]) == [1, 3]
                assert fork.winners == (3, 1)
            await wire.acall("after")

    asyncio.run(main())
    assert wire.step("after").join == 2
    assert sorted(wire.outcomes.values()) == ["cancelled", "cancelled", "ok", "ok"]


def test_any_in_threads_does_not_wait_for_the_losers(wire: Wire) -> None:
    release = threading.Event()
    returned = threading.Semaphore(0)
    all_run = threading.Barrier(3)

    def child(text: str) -> str:
        all_run.wait(60)
        if text == "stuck":
            release.wait(60)
            wire.call("late")
            returned.release()
            raise ValueError("nobody hears of it")
        return text

    with program("p") as run:
        with run.fork(3, join="any") as fork:
            assert fork.map(child, ["stuck", "quick", "stuck"]) == ["quick"]
        wire.call("after")
        assert wire.outcomes == {"f1.0": "cancelled", "f1.1": "ok", "f1.2": "cancelled"}
        release.set()
        assert returned.acquire(timeout=60)
        assert returned.acquire(timeout=60)
    assert wire.step("after").join == "any"
    # What a loser still asks for goes out as what it is: a step of a branch that has ended.
    assert {hints.step.branch for hints in wire.hints["late"] if hints} == {"f1.0", "f1.2"}


def test_what_loses_before_it_began_never_begins(wire: Wire) -> None:
    ran = []

    async def child(number: int) -> int:
        ran.append(number)
        await wire.acall(str(number))
        return number

    async def main() -> None:
        async with program("p") as run, run.fork(9, join="any") as fork:
            assert await fork.map(child, range(9), limit=2) == [0]

    asyncio.run(main())
    assert ran == [0, 1]
    assert wire.outcomes == {"f1.0": "ok", "f1.1": "cancelled"}


@pytest.mark.parametrize("limit", [1, 3])
def test_at_most_so_many_at_once(wire: Wire, limit: int) -> None:
    running: list[int] = []
    most = 0
    lock = threading.Lock()

    def enter(number: int) -> None:
        nonlocal most
        with lock:
            running.append(number)
            most = max(most, len(running))

    async def child(number: int) -> int:
        enter(number)
        await asyncio.sleep(0)
        running.remove(number)
        return number

    barrier = threading.Barrier(limit)

    def child_in_thread(number: int) -> int:
        enter(number)
        barrier.wait(60)  # as many as the limit do run at once
        with lock:
            running.remove(number)
        return number

    async def main() -> None:
        async with program("p") as run, run.fork(9) as fork:
            assert await fork.map(child, range(9), limit=limit) == list(range(9))

    asyncio.run(main())
    assert most == limit
    most = 0
    with program("p") as run, run.fork(9) as fork:
        assert fork.map(child_in_thread, range(9), limit=limit) == list(range(9))
    assert most <= limit


def test_too_few_can_succeed(wire: Wire) -> None:
    async def child(number: int) -> int:
        await asyncio.sleep(0)
        if number == 3:
            await asyncio.Event().wait()
        if number == 0:
            return number
        raise ValueError(number)

    def child_in_thread(number: int) -> int:
        raise ValueError(number)

    async def main() -> None:
        async with program("p") as run:
            with pytest.raises(ExceptionGroup, match="2 branches of fork f1 failed") as caught:
                async with run.fork(4, join=3) as fork:
                    await fork.map(child, range(4))
            assert [error.args for error in caught.value.exceptions] == [(1,), (2,)]
            with (
                pytest.raises(ExceptionGroup, match="3 branches of fork f2 failed"),
                run.fork(3, join="any") as threads,
            ):
                threads.map(child_in_thread, range(3))
            with pytest.raises(ValueError, match="7"), run.fork(3, join="any") as threads:
                threads.map(child_in_thread, [7])
            await wire.acall("after")

    asyncio.run(main())
    assert wire.outcomes == {
        "f1.0": "ok",
        "f1.1": "error",
        "f1.2": "error",
        "f1.3": "cancelled",
        **dict.fromkeys(("f2.0", "f2.1", "f2.2", "f3.0"), "error"),
    }
    assert wire.told.count("joined") == 3
    assert wire.parents("after") == {"f3"}


def test_fewer_children_than_are_waited_for(wire: Wire) -> None:
    with program("p") as run, run.fork(8, join=3) as fork:
        assert sorted(fork.map(str, [1, 2])) == ["1", "2"]
        assert fork.map(str, []) == []


def test_a_child_that_is_cancelled_or_times_out(wire: Wire) -> None:
    async def child(text: str) -> str:
        if text == "cancelled":
            raise asyncio.CancelledError
        if text == "late":
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        return text

    async def main() -> None:
        async with program("p") as run:
            async with run.fork(2, join="any") as fork:
                assert await fork.map(child, ["cancelled", "fine"]) == ["fine"]
            with pytest.raises(asyncio.CancelledError):
                async with run.fork(2) as fork:
                    await fork.map(child, ["cancelled"])
            with pytest.raises(TimeoutError):
                async with run.fork(2) as fork:
                    await fork.map(child, ["late"])
            await wire.acall("after")

    asyncio.run(main())
    assert wire.outcomes == {"f1.0": "cancelled", "f1.1": "ok", "f2.0": "cancelled", "f3.0": "error"}


def test_whoever_waits_for_the_fork_is_cancelled(wire: Wire) -> None:
    began = asyncio.Event()

    async def child(number: int) -> None:
        began.set()
        await asyncio.Event().wait()

    async def forked() -> None:
        async with program("p") as run:
            await wire.acall("start")
            async with run.fork(2, join="any") as fork:
                await fork.map(child, range(2))

    async def main() -> None:
        task = asyncio.create_task(forked())
        await began.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert wire.outcomes == {"f1.0": "cancelled", "f1.1": "cancelled"}
    assert wire.told[-2:] == ["joined", "program_finished"]


class Stop(BaseException):
    """As KeyboardInterrupt and SystemExit, which pytest takes for its own."""


def test_who_cleans_up_after_a_timeout_is_cancelled_once(wire: Wire) -> None:
    cleaned: list[int] = []

    async def child(turns: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(turns):
                await asyncio.sleep(0)
            cleaned.append(turns)

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            async with run.fork(3) as fork:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await fork.map(child, [1, 4, 8])

    asyncio.run(main())
    assert cleaned == [1, 4, 8]
    assert set(wire.outcomes.values()) == {"cancelled"}


@pytest.mark.parametrize("limit", [None, 1])
def test_a_branch_that_is_cancelled_before_it_begins_is_missed(wire: Wire, limit: int | None) -> None:
    running: set[Any] = set()

    async def child(index: int) -> int:
        if index == 0:
            for task in asyncio.all_tasks() - running:
                if task is not asyncio.current_task():
                    task.cancel()
        return index

    async def main() -> None:
        running.add(asyncio.current_task())
        async with program("p") as run, run.fork(3) as fork:
            await wire.acall("start")
            with pytest.raises(asyncio.CancelledError):
                await fork.map(child, range(3), limit=limit)

    asyncio.run(main())


@pytest.mark.parametrize("alone", [True, False])
def test_what_stops_a_branch_is_raised_as_it_is(wire: Wire, alone: bool) -> None:
    def stop(index: int) -> None:
        if index == 0 or not alone:
            raise Stop

    async def astop(index: int) -> None:
        stop(index)
        await asyncio.Event().wait()

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            async with run.fork(2) as fork:
                await fork.map(astop, range(2))

    with pytest.raises(Stop if alone else BaseExceptionGroup):
        asyncio.run(main())
    assert wire.outcomes == {"f1.0": "cancelled", "f1.1": "cancelled"}
    with program("p") as run, pytest.raises(Stop), run.fork(2) as fork:
        fork.map(stop, range(2))


@pytest.mark.parametrize("join", ["all", "any", 2])
def test_what_is_no_exception_is_never_swallowed(wire: Wire, join: Any) -> None:
    def child(number: int) -> None:
        raise Stop

    def forked() -> None:
        with program("p") as run:
            wire.call("start")
            with run.fork(3, join=join) as fork:
                fork.map(child, range(3))

    with pytest.raises(Stop):
        forked()
    assert set(wire.outcomes.values()) == {"cancelled"}
    assert wire.told[-2:] == ["joined", "program_finished"]


def test_an_interrupt_does_not_wait_for_threads() -> None:
    """In a process of its own, which then ends when its threads do."""
    code = """
import os, signal, threading
from llmd_agents import program

release = threading.Event()

def child(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGINT)
    release.wait(60)

try:
    with program("p") as run, run.fork(2) as fork:
        fork.map(child, range(2))
except KeyboardInterrupt:
    print("interrupted", release.is_set(), [record.outcome for record in run.history.branches])
release.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted False ['cancelled', 'cancelled']\n", "")


def test_causes_of_a_single_failure_are_kept(wire: Wire) -> None:
    async def child(number: int) -> None:
        raise ValueError("outer") from KeyError("inner")

    async def main() -> None:
        async with program("p") as run, run.fork(1) as fork:
            await fork.map(child, [1])

    with pytest.raises(ValueError, match="outer") as caught:
        asyncio.run(main())
    assert isinstance(caught.value.__cause__, KeyError)


def test_abandoned_branches_do_not_count(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")

        def child(number: int) -> int:
            if number < 2:
                run.here().abandon()
            return number

        with run.fork(4, join=3) as fork:
            assert sorted(fork.map(child, range(4))) == [2, 3]
        with run.fork(2) as fork:
            assert fork.map(child, range(2)) == [0, 1]
        with run.fork(1) as fork, fork.branch() as branch:
            wire.call("given up")
            branch.abandon()
            assert wire.outcomes["f3.0"] == "abandoned"
        with pytest.raises(RuntimeError, match="own branch"):
            run.here().abandon()
    assert sorted(wire.outcomes.values()) == ["abandoned"] * 5 + ["ok"] * 2


def test_a_branch_that_goes_on_after_its_end_ends_again(wire: Wire) -> None:
    with program("p") as run, run.fork(1) as fork, fork.branch() as branch:
        branch.abandon()
        wire.call("after all")
    ended = [event for event in wire.events if event.type == "branch_ended"]
    assert [event.outcome for event in ended] == ["abandoned", "abandoned"]
    assert [record.outcome for record in run.history.branches] == ["abandoned"]


def test_branches_left_open_end_with_the_block(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")
        with run.fork(2) as fork:
            left = fork.branch()
            left.__enter__()
        assert wire.outcomes == {"f1.0": "abandoned"}
        with pytest.raises(RuntimeError, match="fork f1 was joined"), fork.branch():
            pass
        left.__exit__(None, None, None)
        with pytest.raises(ZeroDivisionError), run.fork(1, join="any") as fork:
            _ = fork.branch().__enter__(), 1 / 0
    assert wire.outcomes == {"f1.0": "abandoned", "f2.0": "cancelled"}


@pytest.mark.parametrize("join", [0, 4, -1, True, 1.5, "most", None])
def test_joins_without_meaning_are_refused(join: Any) -> None:
    with (
        program("p") as run,
        pytest.raises(ValueError, match='join must be "all", "any" or a number from 1 to 3'),
    ):
        run.fork(3, join=join)


def test_misuse_of_map() -> None:
    with program("p") as run, run.fork(3) as fork:
        with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
            fork.map(str, [1], limit=0)
        fork.map(str, [1, 2])
        with pytest.raises(
            ValueError, match="2 items for a fork that was declared with 3 branches, 2 of which"
        ):
            fork.map(str, [1, 2])
        assert fork.map(str, [3]) == ["3"]


def test_each_block_is_entered_once(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")
        block = run.fork(3)
        with block as fork:
            begun, late = fork.branch(), fork.branch()
            with begun:
                wire.call("once")
            with pytest.raises(RuntimeError, match=r"branch f1\.0 has begun already"), begun:
                wire.call("twice")
        with pytest.raises(RuntimeError, match="fork f1 was joined"), late:
            wire.call("late")
        with pytest.raises(RuntimeError, match="fork f1 was entered already"), block:
            wire.call("again")
        wire.call("after")
    assert wire.told.count("joined") == 1
    assert (wire.step("after").branch, wire.parents("after")) == ("main", {"f1"})
    assert wire.outcomes == {"f1.0": "ok"}
    assert wire.hints.keys() == {"start", "once", "after"}


def test_threads_do_not_run_coroutine_functions(wire: Wire) -> None:
    async def child(text: str) -> None:
        raise AssertionError("never awaited")

    with program("p") as run:
        wire.call("start")
        with run.fork(2) as fork:
            with pytest.raises(TypeError, match="async with"):
                fork.map(child, ["a"])
            with pytest.raises(TypeError, match="async with"):
                fork.call(lambda: child("b"))
    assert set(wire.outcomes.values()) == {"error"}


def test_children_of_several_kinds(wire: Wire) -> None:
    async def write() -> str:
        await wire.acall("write")
        return "text"

    async def count() -> str:
        return "3"

    async def main() -> None:
        async with program("p") as run, run.fork(2) as fork:
            assert await fork.call(write, count) == ["text", "3"]

    asyncio.run(main())
    with program("p") as run, run.fork(2) as fork:
        assert fork.call(lambda: 1, lambda: 2) == [1, 2]
    assert wire.step("write").branch == "f1.0"


def test_how_nested_forks_were_joined_is_told_by_the_step_after_each(wire: Wire) -> None:
    async def main() -> None:
        async with program("p") as run:

            async def leaf(text: str) -> None:
                await wire.acall(text)

            async def child(text: str) -> None:
                async with run.fork(2, join="any") as inner:
                    await inner.map(leaf, [f"{text}1", f"{text}2"])
                await wire.acall(text)

            async with run.fork(2, join=2) as outer:
                await outer.map(child, "ab")
            # A fork that follows a join at once: its branches are what waited.
            async with run.fork(1) as last:
                await last.map(leaf, ["end"])
            await wire.acall("after")

    asyncio.run(main())
    assert {text: wire.step(text).join for text in ("a", "b", "end", "after")} == {
        "a": "any",
        "b": "any",
        "end": 2,
        "after": "all",
    }
    assert wire.parents("end") == {"f1"}


def test_forks_of_different_joins_side_by_side(wire: Wire) -> None:
    async def main() -> None:
        async with program("p") as run:

            async def leaf(text: str) -> None:
                await wire.acall(text)

            async def forked(join: Any, text: str) -> None:
                async with run.fork(1, join=join) as fork:
                    await fork.map(leaf, [text])

            await asyncio.gather(forked("any", "x"), forked("all", "y"))
            await wire.acall("after")

    asyncio.run(main())
    assert wire.parents("after") == {"f1", "f2"}
    assert wire.step("after").join is None


def test_the_history_of_a_fork(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")

        def child(number: int) -> int:
            return 1 // number

        with run.fork(3, name="halves", join="any") as fork:
            fork.map(child, [0, 2], limit=1)
    [record] = run.history.forks
    assert (record.fork, record.name, record.branch, record.width, record.parents, record.join) == (
        "f1",
        "halves",
        "main",
        3,
        ("s1",),
        "any",
    )
    assert record.ended is not None
    branches = run.history.branches
    assert [(one.branch, one.fork, one.index, one.parents, one.outcome) for one in branches] == [
        ("f1.0", "f1", 0, ("s1",), "error"),
        ("f1.1", "f1", 1, ("s1",), "ok"),
    ]
    assert all(one.ended is not None and one.started <= one.ended <= record.ended for one in branches)


def test_observers_are_told_within_the_branch() -> None:
    from llmd_agents.client import observer

    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")
    told = []

    class Watching:
        def branch_started(self, history: Any, branch: Any) -> None:
            seen.set(branch.branch)

        def __getattr__(self, name: str) -> Any:
            return lambda *_: told.append((name, seen.get()))

    observer.observe_with(Watching())
    try:

        def child(number: int) -> str:
            return seen.get()

        with program("p") as run, run.fork(2) as fork:
            assert fork.map(child, range(2), limit=1) == ["f1.0", "f1.1"]
    finally:
        observer._observers.pop()
    assert told == [
        ("program_started", "nothing"),
        ("fork_declared", "nothing"),
        ("branch_ended", "f1.0"),
        ("branch_ended", "f1.1"),
        ("fork_joined", "nothing"),
        ("program_ended", "nothing"),
    ]


def test_a_fork_of_a_hundred_thousand_is_no_burden() -> None:
    """Nothing is kept of branches that have ended but the history, which is bounded."""

    async def child(number: int) -> int:
        return number

    async def main() -> None:
        async with program("p") as run, run.fork(100_000) as fork:
            assert await fork.map(child, range(30_000), limit=100) == list(range(30_000))
            assert not fork._open
        assert len(run.history.branches) == 20_000
        assert run.history.dropped == 10_000
        assert isinstance(run.root, Branch)

    asyncio.run(main())
