"""Loops: which turn a step belongs to, and that none belongs to a loop that is over."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmd_agents import Run, program
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


def turn(wire: Wire, text: str) -> tuple[str, int, int | None] | None:
    loop = wire.step(text).loop
    return None if loop is None else (loop.id, loop.iteration, loop.limit)


def test_every_way_to_leave_a_loop_ends_it(wire: Wire) -> None:
    def leaves_by_return(run: Run) -> None:
        for _ in run.loop():
            wire.call("returns")
            return

    def leaves_by_failing(run: Run) -> None:
        for number in run.loop():
            wire.call("fails")
            _ = 1 // number

    with program("p") as run:
        for number in run.loop("all", limit=2):
            wire.call(f"all {number}")
        wire.call("after all")
        for _ in run.loop("some", limit=5):
            wire.call("some")
            break
        wire.call("after some")
        with pytest.raises(ZeroDivisionError) as kept:
            leaves_by_failing(run)
        wire.call("after failure")
        leaves_by_return(run)
        wire.call("after return")
        declared = run.loop(limit=9)  # a name for the declaration is not the loop
        for number in declared:
            if number == 1:
                break
        wire.call("after named")
        assert list(run.loop(limit=0)) == []
    assert kept.value.__traceback__ is not None
    assert turn(wire, "all 0") == ("all-l1", 0, 2)
    assert turn(wire, "all 1") == ("all-l1", 1, 2)
    assert turn(wire, "some") == ("some-l2", 0, 5)
    assert turn(wire, "fails") == ("l3", 0, None)
    assert turn(wire, "returns") == ("l4", 0, None)
    assert {turn(wire, text) for text in wire.hints if text.startswith("after")} == {None}


def test_nested_loops_tell_the_innermost(wire: Wire) -> None:
    with program("p") as run:
        for outer in run.loop("outer", limit=2):
            wire.call(f"before {outer}")
            for inner in run.loop("inner", limit=3):
                wire.call(f"{outer}.{inner}")
                break
            wire.call(f"after {outer}")
        wire.call("end")
    assert turn(wire, "before 1") == turn(wire, "after 1") == ("outer-l1", 1, 2)
    assert turn(wire, "0.0") == ("inner-l2", 0, 3)
    assert turn(wire, "1.0") == ("inner-l3", 0, 3)  # another loop each time that it is run
    assert turn(wire, "end") is None


def test_an_iterator_driven_by_hand_is_over_with_the_turn_that_it_began_in(wire: Wire) -> None:
    with program("p") as run:
        for _ in run.loop("outer", limit=2):
            by_hand = iter(run.loop("hand", limit=5))
            wire.call(f"turn {next(by_hand)} of {len(wire.hints)}")
        wire.call("after")
    assert turn(wire, "turn 0 of 0") == ("hand-l2", 0, 5)
    assert turn(wire, "after") is None


def test_loops_of_tasks_do_not_mix(wire: Wire) -> None:
    async def main() -> None:
        async with program("p") as run:

            async def looping(name: str) -> None:
                for number in run.loop(name, limit=3):
                    await wire.acall(f"{name} {number}")

            await asyncio.gather(looping("a"), looping("b"))
            for number in run.loop("c", limit=1):
                # What a turn starts belongs to it.
                await asyncio.gather(wire.acall("c one"), wire.acall("c two"))
                await asyncio.to_thread(wire.call, f"c {number}")
            await wire.acall("after")

    asyncio.run(main())
    for name in ("a", "b"):
        ids = {turn(wire, f"{name} {number}") for number in range(3)}
        assert len({one[0] for one in ids if one}) == 1
        assert sorted(one[1] for one in ids if one) == [0, 1, 2]
    assert turn(wire, "c one") == turn(wire, "c two") == turn(wire, "c 0")
    assert turn(wire, "after") is None


def test_a_branch_begins_outside_of_its_parents_loops(wire: Wire) -> None:
    with program("p") as run:
        for _ in run.loop("outer", limit=1):
            with run.fork(1) as fork, fork.branch():
                wire.call("child")
                for _ in run.loop("own", limit=1):
                    wire.call("child's own")
            wire.call("parent")
    assert turn(wire, "child") is None
    assert turn(wire, "child's own") == ("own-l2", 0, 1)
    assert turn(wire, "parent") == ("outer-l1", 0, 1)


def test_a_generator_that_loops(wire: Wire) -> None:
    async def agent(run: Run) -> Any:
        for number in run.loop("agent"):
            await wire.acall(f"agent {number}")
            yield number

    async def main() -> None:
        async with program("p") as run:
            turns = agent(run)
            async for number in turns:
                if number == 2:
                    break
            # It is paused within its loop; closed, wherever that is, it is over.
            await asyncio.create_task(turns.aclose())
            await wire.acall("after")

    asyncio.run(main())
    assert turn(wire, "agent 2") == ("agent-l1", 2, None)
    assert turn(wire, "after") is None


@pytest.mark.parametrize("limit", [-1, 1_000_001, 1.5, "3", True])
def test_limits_without_meaning_are_refused_where_they_are_declared(limit: Any) -> None:
    with program("p") as run, pytest.raises(ValueError, match="limit"):
        run.loop("react", limit=limit)


def test_an_endless_loop_stays_within_the_contract(wire: Wire) -> None:
    with program("p") as run:
        for number in run.loop():
            if number == 1_000_001:
                wire.call("late")
                break
    assert turn(wire, "late") == ("l1", 1_000_000, None)
