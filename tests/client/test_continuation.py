"""A program that is taken up where something in the block asks for one, and not before."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmd_agents import program
from llmd_agents.client import ContextExecutor, Continuation, continued, current_run
from llmd_agents.client.frame import current_frame
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


@pytest.fixture
def taken_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runs that begin."""
    runs: list[Any] = []
    begin = continued.continue_program

    def noted(*arguments: Any, **options: Any) -> Any:
        runs.append(begin(*arguments, **options))
        return runs[-1]

    monkeypatch.setattr(continued, "continue_program", noted)
    return runs


def test_a_block_that_asks_for_nothing(taken_up: list[Any]) -> None:
    with program("p") as run, run.hand_over() as handed, Continuation(handed.meta) as going_on:
        pass
    assert not taken_up
    assert not going_on.used


def test_the_first_call_takes_the_program_up(wire: Wire, taken_up: list[Any]) -> None:
    with program("p", priority=70) as run:
        wire.call("start")
        with run.hand_over() as handed, Continuation(handed.headers) as going_on:
            assert not going_on.used
            wire.call("there")
            assert going_on.used
            wire.call("last")
        assert going_on.used
        wire.call("after")
    assert len(taken_up) == 1
    assert taken_up[0].declared == run.declared
    assert (wire.step("there").branch, wire.parents("there")) == ("h1.0", {"start"})
    assert wire.parents("last") == {"there"}
    assert wire.parents("after") == {"h1"}
    assert wire.outcomes == {"h1.0": "ok"}


def test_what_counts_as_use(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")
        with run.hand_over() as handed, Continuation(handed.meta) as going_on:
            there = current_run()
            assert there is not None
            assert there.id == run.id
            over = there.hand_over()
            with over:
                over.withdraw()
            with there.label(kind="a"):
                pass
            assert not going_on.used
            with there.fork(1) as fork:
                fork.map(wire.call, ["child"])
            assert going_on.used
        refused = run.hand_over()
        wire.refused.add("refused")
        with refused as handed, Continuation(handed.meta) as going_on:
            wire.call("refused")
            assert going_on.used  # it may have been computed all the same


def test_outcomes(wire: Wire) -> None:
    def fail(meta: dict[str, str]) -> None:
        with Continuation(meta):
            wire.call("there")
            raise ZeroDivisionError

    with program("p") as run:
        wire.call("start")
        with run.hand_over() as handed, pytest.raises(ZeroDivisionError):
            fail(handed.meta)
        with run.hand_over() as handed, pytest.raises(ZeroDivisionError), Continuation(handed.meta):
            _ = 1 / 0
    assert wire.outcomes == {"h1.0": "error"}


def test_without_anything_to_go_on_with_the_first_call_begins_a_program(wire: Wire) -> None:
    with Continuation({"x-llmd-hints": "nonsense"}, name="worker"):
        wire.call("call")
    assert wire.told == ["program_started", "program_finished"]
    assert wire.hints["call"][0].program.name == "worker"  # type: ignore[union-attr]


def test_the_block_is_left_for_what_was_around_it(taken_up: list[Any]) -> None:
    async def main() -> None:
        with program("p") as run:
            async with Continuation(None):
                with program("within"):
                    pass
            assert current_run() is run
            async with Continuation(None):
                assert current_run() is not run
            assert current_run() is run
        assert current_frame() is None

    asyncio.run(main())
    assert len(taken_up) == 1


def test_a_task_that_asks_after_the_end_is_outside(taken_up: list[Any]) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def late() -> None:
            await over.wait()
            assert current_frame() is None

        async with Continuation(None) as going_on:
            task = asyncio.create_task(late())
        over.set()
        await task
        assert not going_on.used

    asyncio.run(main())
    assert not taken_up


def test_threads_that_ask_at_once_are_in_one_program(taken_up: list[Any]) -> None:
    width = 8
    ready = threading.Barrier(width)

    def ask(number: int) -> Any:
        ready.wait(timeout=60)
        return current_run()

    with Continuation(None), ContextExecutor(width) as threads:
        runs = list(threads.map(ask, range(width)))
    assert len(taken_up) == 1
    assert set(runs) == {taken_up[0]}


def test_it_is_one_block() -> None:
    going_on = Continuation(None)
    with going_on:
        pass
    with pytest.raises(RuntimeError, match="is one block"):
        going_on.__enter__()
