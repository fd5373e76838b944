"""Which program code belongs to: in threads, tasks, generators closed elsewhere, programs in programs."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmd_agents import ContextExecutor, Fork, Run, program
from llmd_agents.client.frame import current_frame
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


def programs(wire: Wire) -> dict[str, str | None]:
    return {text: hints.program.name for text, [hints] in wire.hints.items() if hints is not None}


def test_an_executor_that_carries_the_context(wire: Wire) -> None:
    with ContextExecutor(2) as threads, program("p") as run, run.fork(1) as fork:
        with fork.branch():
            threads.submit(wire.call, "submitted").result()
            list(threads.map(wire.call, ["mapped", "mapped too"]))
        wire.call("main")
    assert {wire.step(text).branch for text in ("submitted", "mapped", "mapped too")} == {"f1.0"}
    assert wire.step("main").branch == "main"


def test_the_context_in_an_event_loops_executor(wire: Wire) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ContextExecutor())
        async with program("p"):
            await loop.run_in_executor(None, wire.call, "carried")
            with ThreadPoolExecutor() as threads:
                await loop.run_in_executor(threads, wire.call, "lost")

    asyncio.run(main())
    assert programs(wire) == {"carried": "p", "lost": "undeclared"}


def test_what_the_executor_runs_keeps_its_own_exceptions_and_arguments() -> None:
    def divide(one: int, *, by: int) -> float:
        return one / by

    with ContextExecutor() as threads:
        assert threads.submit(divide, 6, by=3).result() == 2
        with pytest.raises(ZeroDivisionError):
            threads.submit(divide, 6, by=0).result()


def test_programs_in_programs(wire: Wire) -> None:
    with program("outer") as outer:
        wire.call("o1")
        with outer.fork(1) as fork, fork.branch():
            with program("inner") as inner:
                wire.call("i1")
                assert inner.id != outer.id
                # What is declared on the outer program stands on the branch that the code is on there.
                with outer.label(kind="note"):
                    wire.call("o2")
                wire.call("i2")
            wire.call("o3")
    assert programs(wire) == {"o1": "outer", "i1": "inner", "o2": "outer", "i2": "inner", "o3": "outer"}
    assert (wire.step("o2").branch, wire.step("o3").parents) == ("f1.0", (wire.step("o2").id,))
    assert wire.told.count("program_finished") == 2


def test_a_run_is_one_block_at_a_time(wire: Wire) -> None:
    with program("p") as run, pytest.raises(RuntimeError, match="running already"):
        run.__enter__()
    with run:  # as when a program is resumed under its id
        wire.call("again")
    assert current_frame() is None


def test_tasks_started_within_a_block_stay_in_it(wire: Wire) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def later(text: str) -> None:
            await go.wait()
            await wire.acall(text)

        async with program("p") as run:
            with run.label(kind="plan"):
                task = asyncio.create_task(later("labelled"))
            go.set()
            await task
            await wire.acall("plain")

    asyncio.run(main())
    assert wire.step("labelled").kind == "plan"
    assert wire.step("plain").kind is None


def test_tasks_that_outlive_their_program_are_outside_of_it(wire: Wire) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            await wire.acall("late")

        async with program("p") as run, run.fork(1) as fork:
            with fork.branch():
                task = asyncio.create_task(later())
        go.set()
        await task

    asyncio.run(main())
    assert programs(wire) == {"late": "undeclared"}


def drafts(wire: Wire) -> Iterator[str]:
    with program("drafting") as run, run.fork(2) as fork:
        for text in ("first", "second"):
            with fork.branch(), run.label(kind="draft"):
                wire.call(text)
                yield text


async def adrafts(wire: Wire) -> AsyncIterator[str]:
    async with program("drafting") as run, run.fork(2) as fork:
        for text in ("first", "second"):
            with fork.branch(), run.label(kind="draft"):
                await wire.acall(text)
                yield text


def check_closed(wire: Wire) -> None:
    assert current_frame() is None
    assert wire.outcomes == {"f1.0": "cancelled"}
    assert wire.told == ["program_started", "fork_declared", "branch_ended", "joined", "program_finished"]


def test_a_generator_closed_where_it_runs(wire: Wire) -> None:
    for _ in drafts(wire):
        break
    check_closed(wire)


def test_a_generator_closed_in_another_thread(wire: Wire) -> None:
    generator = drafts(wire)
    next(generator)
    thread = threading.Thread(target=generator.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join()
    check_closed(wire)


def test_a_generator_closed_in_another_context(wire: Wire) -> None:
    generator = drafts(wire)
    contextvars.copy_context().run(next, generator)
    generator.close()  # type: ignore[attr-defined]
    check_closed(wire)


def test_a_generator_closed_while_its_consumer_is_in_a_block_of_its_own(wire: Wire) -> None:
    generator = drafts(wire)
    next(generator)
    with program("mine") as run, run.label(kind="mine"):
        generator.close()  # type: ignore[attr-defined]
        wire.call("still mine")
    assert current_frame() is None
    assert programs(wire)["still mine"] == "mine"
    assert wire.step("still mine").kind == "mine"


def test_a_generator_that_is_forgotten(wire: Wire) -> None:
    cycle: list[Any] = [drafts(wire)]
    next(cycle[0])
    cycle.append(cycle)  # so that only the collector finds it
    del cycle
    gc.collect()
    check_closed(wire)


def test_a_generator_that_is_left_paused_while_what_it_runs_in_ends(wire: Wire) -> None:
    def child(run: Run, fork: Fork) -> Iterator[None]:
        with fork.branch():
            wire.call("child")
            with run.fork(1) as inner, inner.branch(), run.label(kind="deep"):
                wire.call("grandchild")
                yield

    with program("p") as run:
        with run.fork(1) as fork:
            paused = child(run, fork)
            next(paused)
        wire.call("after")
        left = child(run, run.fork(1).__enter__())
        next(left)
    assert current_frame() is None
    assert (wire.step("after").branch, wire.step("after").kind) == ("main", None)
    assert {record.outcome for record in run.history.branches[:2]} == {"abandoned", None}
    del paused, left
    assert current_frame() is None


def test_an_async_generator_closed_in_another_task(wire: Wire) -> None:
    async def main() -> None:
        generator = adrafts(wire)
        await anext(generator)
        await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
        told = list(wire.told)
        await asyncio.gather(wire.acall("task"))  # which begins in a copy of what is left of the context
        assert told[-1] == "program_finished"
        await wire.acall("after")

    asyncio.run(main())
    assert programs(wire)["task"] == programs(wire)["after"] == "undeclared"


def test_an_async_generator_that_is_forgotten(wire: Wire) -> None:
    async def main() -> None:
        async for _ in adrafts(wire):
            break
        while "program_finished" not in wire.told:  # noqa: ASYNC110  (the loop closes it in a task of its own)
            await asyncio.sleep(0)
        check_closed(wire)

    asyncio.run(main())


def test_an_async_generator_that_the_end_of_the_loop_closes(wire: Wire) -> None:
    kept = []

    async def main() -> None:
        kept.append(adrafts(wire))
        await anext(kept[0])

    asyncio.run(main())
    check_closed(wire)


def test_a_generator_of_threads_and_tasks(wire: Wire) -> None:
    """Each turn in another thread, as web frameworks run sync generators."""

    async def main() -> None:
        generator = drafts(wire)
        for _ in range(2):
            await asyncio.to_thread(next, generator)
        await asyncio.to_thread(generator.close)  # type: ignore[attr-defined]

    asyncio.run(main())
    assert current_frame() is None
    assert wire.outcomes == {"f1.0": "ok", "f1.1": "cancelled"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_generators_open_at_the_interpreters_exit(kind: str) -> None:
    code = """
import asyncio, sys
from llmd_agents import program

def drafts():
    with program("p") as run, run.fork(2) as fork, fork.branch(), run.label(kind="draft"):
        for turn in run.loop():
            yield turn

async def adrafts():
    async with program("p") as run, run.fork(2) as fork:
        with fork.branch():
            yield 1

if sys.argv[1] == "sync":
    generator = drafts()
    print(next(generator))
else:
    generator = adrafts()
    print(asyncio.new_event_loop().run_until_complete(anext(generator)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, kind], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout in ("0\n", "1\n")
    assert "llmd_agents" not in done.stderr
    assert "Exception" not in done.stderr


def test_calls_that_overlap_without_a_declared_fork(wire: Wire) -> None:
    wire.refused.add("refused")

    async def chain(name: str) -> None:
        await wire.acall(f"{name}1")
        await asyncio.gather(wire.acall(f"{name}2"), wire.acall(f"{name}3"))

    async def fails() -> None:
        await wire.acall("refused")
        raise ZeroDivisionError

    async def main() -> None:
        async with program("p"):
            await wire.acall("start")
            await asyncio.gather(chain("a"), chain("b"))
            await wire.acall("middle")
            for next_done in asyncio.as_completed([wire.acall("c"), wire.acall("d")]):
                await next_done
            await wire.acall("then")
            with pytest.raises(ZeroDivisionError):
                await asyncio.gather(wire.acall("e"), fails())
            await wire.acall("end")

    asyncio.run(main())
    assert wire.parents("a1") == wire.parents("b1") == {"start"}
    assert wire.parents("middle") == {"a2", "a3", "b2", "b3"}
    assert wire.parents("c") == wire.parents("d") == {"middle"}
    assert wire.parents("then") == {"c", "d"}
    assert wire.parents("refused") == {"then"}
    assert wire.parents("end") == {"e"}


class Broken(Exception): ...


def test_what_fails_in_the_library_is_not_felt(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing that structure is told to fails; the application's own code runs as if all was well."""

    def break_(*_: object, **__: object) -> None:
        raise Broken

    from llmd_agents.client import branch, fork_block, observer, outbox, run

    class Raising:
        def __getattr__(self, name: str) -> object:
            return break_

    observer.observe_with(Raising())  # type: ignore[arg-type]
    try:
        for module, name in (
            (outbox.Outbox, "put"),
            (outbox.Outbox, "flush"),
            (outbox.Outbox, "flush_async"),
            (branch, "BranchRecord"),
            (branch, "BranchEnded"),
            (branch.Branch, "settle"),
            (fork_block, "ForkRecord"),
            (fork_block, "Joined"),
            (run, "ProgramStarted"),
            (run, "ProgramFinished"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(module, name, break_)
                _whole_program(wire)
    finally:
        observer._observers.pop()
    assert current_frame() is None


def _whole_program(wire: Wire) -> None:
    def child(number: int) -> float:
        with program("inner") as inner, inner.hand_over():
            return 1 / number

    async def main() -> Run:
        async with program("p") as run:
            async with run.fork(2) as fork:
                assert await fork.map(asyncio.sleep, [0]) == [None]
            with run.fork(2, join="any") as threads:
                assert threads.map(child, [0, 2], limit=1) == [0.5]
            with pytest.raises(ZeroDivisionError), run.fork(1) as threads:
                threads.map(child, [0])
            assert run.best_of(2, float, score=abs).result == 1.0
            for _ in run.loop(limit=2):
                await wire.acall("call")
            return run

    asyncio.run(main())


def test_ids_without_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_randomness(size: int) -> str:
        raise OSError

    monkeypatch.setattr("secrets.token_hex", no_randomness)
    made = {program("p").id for _ in range(10)}
    assert all(len(one) == len("p-") + 12 for one in made)
    assert len(made) > 1
