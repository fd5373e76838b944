"""Labels, and edges between steps of different branches."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmd_agents import program
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


def test_a_step_that_waited_for_steps_of_other_branches(wire: Wire) -> None:
    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            found: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

            async def search() -> None:
                await wire.acall("search")
                found.set_result(run.last_step())
                await wire.acall("search on")

            async def write() -> None:
                await wire.acall("outline")
                with run.label(kind="write", after=[await found]):
                    await wire.acall("draft")
                    await wire.acall("second draft")
                await wire.acall("done")

            async with run.fork(2) as fork:
                await fork.call(search, write)

    asyncio.run(main())
    assert wire.parents("draft") == {"search", "outline"}
    # What follows the draft depends on the search through it.
    assert wire.parents("second draft") == {"draft"}
    assert wire.parents("done") == {"second draft"}
    assert wire.parents("search on") == {"search"}
    assert wire.step("draft").kind == "write"


def test_a_failed_step_has_not_used_its_edges(wire: Wire) -> None:
    wire.refused.add("fails")
    with program("p") as run:
        wire.call("a")
        with run.fork(1) as fork, fork.branch() as branch:
            wire.call("b")
        with run.label(after=branch):
            wire.call("fails")
            wire.call("works")
            wire.call("next")
        with run.label(after=[branch]):
            pass
        wire.call("after")
    assert wire.parents("fails") == wire.parents("works") == {"f1", "b"}
    assert wire.parents("next") == {"works"}
    assert wire.parents("after") == {"next"}


def test_edges_of_a_label_reach_inner_labels_and_overlapping_steps(wire: Wire) -> None:
    async def main() -> None:
        async with program("p") as run:
            async with run.fork(1) as fork:
                with fork.branch():
                    await wire.acall("there")
                    there = run.last_step()
            with run.label(after=[there]), run.label(kind="inner"):
                await asyncio.gather(wire.acall("one"), wire.acall("two"))
                await wire.acall("three")

    asyncio.run(main())
    assert wire.parents("one") == wire.parents("two") == {"f1", "there"}
    assert wire.parents("three") == {"one", "two"}


def test_what_is_after_nothing(wire: Wire) -> None:
    with program("p") as run:
        assert run.last_step() is None
        with run.label(after=[run.last_step()]):
            wire.call("a")
        assert run.last_step() == wire.step("a").id
        with run.label(after="s1"):
            wire.call("b")
    assert wire.parents("a") == set()
    assert wire.parents("b") == {"a"}


@pytest.mark.parametrize("after", [["no id"], ["x" * 65], [3], "new\nline", ["ünïcode"]])
def test_edges_to_what_is_no_id_are_refused_where_they_are_declared(after: Any) -> None:
    with program("p") as run, pytest.raises(ValueError), run.label(after=after):  # noqa: PT011
        pass


def test_a_label_takes_code_into_the_program_that_began_outside_of_it(wire: Wire) -> None:
    async def main() -> None:
        jobs: asyncio.Queue[Any] = asyncio.Queue()

        async def worker() -> None:
            while (run := await jobs.get()) is not None:
                await wire.acall("outside")
                with run.label():
                    await wire.acall("inside")

        task = asyncio.create_task(worker())
        async with program("p") as run:
            await wire.acall("first")
            await jobs.put(run)
            await jobs.put(None)
            await task

    asyncio.run(main())
    [outside], [inside], [first] = (wire.hints[text] for text in ("outside", "inside", "first"))
    assert outside is not None
    assert inside is not None
    assert first is not None
    assert inside.program == first.program
    assert outside.program.name == "undeclared"
    assert inside.step.parents == (first.step.id,)


@pytest.mark.parametrize("names", [{"kind": "a\nb"}, {"agent": "x" * 129}, {"kind": ""}, {"agent": 7}])
def test_a_name_outside_the_contract_is_refused_where_it_is_declared(names: Any) -> None:
    with program("p") as run, pytest.raises(ValueError, match=r"str|printable"), run.label(**names):
        pass
