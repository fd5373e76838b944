"""Virtual time: what asyncio promises holds, no real time passes, and nothing differs from run to run."""

import asyncio
import random

import pytest

from llmd_agents.bench.virtual_time import NothingLeftToWaitFor, run


def test_sleeps_end_in_order_and_at_their_exact_times() -> None:
    log: list[tuple[float, str]] = []

    async def sleeper(name: str, *pauses: float) -> None:
        for pause in pauses:
            await asyncio.sleep(pause)
            log.append((asyncio.get_running_loop().time(), name))

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sleeper("a", 1, 3600))
            tasks.create_task(sleeper("b", 0.25, 0.75, 86_400 * 3))

    run(main())
    assert log == [(0.25, "b"), (1.0, "a"), (1.0, "b"), (3601.0, "a"), (1.0 + 86_400 * 3, "b")]


def test_timeouts_and_cancellation() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(600)
        first = loop.time()
        await asyncio.wait_for(asyncio.sleep(1), 2)
        return first, loop.time()

    assert run(main()) == (5.0, 6.0)


def test_threads_run_at_once() -> None:
    async def main() -> tuple[int, float]:
        total = await asyncio.to_thread(sum, [1, 2, 3])
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return total, asyncio.get_running_loop().time()

    assert run(main()) == (6, 0.0)


def test_what_can_never_end_says_who_waits() -> None:
    async def main() -> None:
        await asyncio.sleep(7)
        await asyncio.create_task(asyncio.Event().wait(), name="the forgotten one")

    with pytest.raises(NothingLeftToWaitFor, match=r"at 7\.000 s: .* the forgotten one"):
        run(main())


def test_failures_come_out_of_a_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise KeyError("x")

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(1000))

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


def test_the_same_seed_takes_the_same_course() -> None:
    async def main(seed: int) -> list[tuple[float, int]]:
        draws = random.Random(seed)
        log: list[tuple[float, int]] = []
        free = asyncio.Semaphore(3)

        async def worker(number: int) -> None:
            for _ in range(20):
                async with free:
                    await asyncio.sleep(draws.expovariate(1.0))
                    log.append((asyncio.get_running_loop().time(), number))

        async with asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(worker(number))
        return log

    assert run(main(1)) == run(main(1))
    assert run(main(1)) != run(main(2))
