"""Best of n: what is kept, what becomes of the others, and who is heard of failures."""

import asyncio
import functools
import math
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from llmd_agents import Best, program
from tests.client.wire import Wire, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


SCORES = {0: 0.2, 1: 0.9, 2: 0.5, 3: 0.9}


def test_the_best_is_kept_and_the_others_are_abandoned(wire: Wire) -> None:
    async def attempt(index: int) -> str:
        await wire.acall(f"attempt {index}")
        return f"answer {index}"

    async def judge(answer: str) -> float:
        await wire.acall(f"judge {answer}")
        return SCORES[int(answer[-1])]

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            best = await run.best_of(4, attempt, score=judge, name="answers")
            assert best == Best("answer 1", 0.9, 1, (0.2, 0.9, 0.5, 0.9), ())
            await wire.acall("after")

    asyncio.run(main())
    assert wire.outcomes == {
        "f1.0": "abandoned",
        "f1.1": "ok",
        "f1.2": "abandoned",
        "f1.3": "abandoned",
    }
    assert wire.step("judge answer 2").kind == "evaluate"
    assert wire.step("judge answer 2").branch == "f1.2"
    assert wire.parents("judge answer 2") == {"attempt 2"}
    assert wire.step("attempt 2").kind is None
    assert wire.parents("after") == {"f1"}
    # No branch ends before all are scored: the best one's context is still wanted.
    assert wire.told.index("branch_ended") > wire.told.index("fork_declared")
    assert wire.told[-6:] == [*["branch_ended"] * 4, "joined", "program_finished"]


def test_in_threads(wire: Wire) -> None:
    def attempt(prompt: str, index: int) -> str:
        wire.call(f"{prompt} {index}")
        return prompt * (index + 1)

    with program("p") as run:
        wire.call("start")
        best = run.best_of(3, functools.partial(attempt, "x"), score=len, limit=2)
        assert (best.result, best.score, best.index) == ("xxx", 3.0, 2)
    assert wire.outcomes == {"f1.0": "abandoned", "f1.1": "abandoned", "f1.2": "ok"}


def test_what_fails_does_not_count(wire: Wire) -> None:
    async def attempt(index: int) -> int:
        if index == 0:
            raise ValueError("no answer")
        return index

    def score(answer: int) -> float:
        return float("nan") if answer == 1 else {2: 1 / 3, 3: -1.0}[answer]

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            best = await run.best_of(4, attempt, score=score)
            assert (best.result, best.scores) == (2, (None, None, 1 / 3, -1.0))
            assert sorted(str(error) for error in best.errors) == [
                "no answer",
                "score must return a number, not nan",
            ]

    asyncio.run(main())
    assert wire.outcomes == {"f1.0": "error", "f1.1": "error", "f1.2": "ok", "f1.3": "abandoned"}


def test_scores_are_numbers_of_any_kind(wire: Wire) -> None:
    def worth(score: Any) -> Any:
        with program("p") as run:
            return run.best_of(1, lambda index: index, score=lambda _: score).score

    assert worth(Decimal("0.25")) == 0.25
    for score in ("3", True, None, math.nan):
        with pytest.raises(TypeError, match="score must return a number"):
            worth(score)
    with pytest.raises(TypeError, match="scores what coroutine functions attempt"):
        worth(asyncio.sleep(0))


def test_an_interrupt_leaves_no_attempt_open(wire: Wire) -> None:
    begun, interrupted = threading.Barrier(6), threading.Event()
    returned: list[int] = []

    def attempt(index: int) -> int:
        begun.wait(10)
        if index == 0:
            raise KeyboardInterrupt
        assert interrupted.wait(10)
        returned.append(index)
        return index

    with program("p") as run:
        wire.call("start")
        with pytest.raises(KeyboardInterrupt):
            run.best_of(6, attempt, score=float)
        interrupted.set()
        for thread in threading.enumerate():
            if thread.name.startswith("fork f1"):
                thread.join(10)
    assert len(returned) == 5
    assert list(wire.outcomes.values()) == ["cancelled"] * 6


def test_all_fail(wire: Wire) -> None:
    def attempt(index: int) -> int:
        raise ValueError(index)

    with program("p") as run:
        with pytest.raises(ExceptionGroup, match="all 2 attempts failed"):
            run.best_of(2, attempt, score=float)
        with pytest.raises(ValueError, match="0"):
            run.best_of(1, attempt, score=float)
        with pytest.raises(TypeError, match="declare `attempt` with `async def`"):
            run.best_of(1, lambda index: asyncio.sleep(0), score=lambda _: 1.0)
        with pytest.raises(ValueError, match="width"):
            run.best_of(0, attempt, score=float)


def test_a_cancelled_attempt_cancels_as_it_does_in_any_fork(wire: Wire) -> None:
    async def attempt(index: int) -> Any:
        raise asyncio.CancelledError

    async def main() -> None:
        async with program("p") as run:
            await wire.acall("start")
            await run.best_of(2, attempt, score=float)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert set(wire.outcomes.values()) == {"cancelled"}
