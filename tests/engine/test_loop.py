"""The loop that runs a core in time: in real time at any scale, and in a loop of virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llmd_agents.bench.virtual_time import run as run_virtual
from llmd_agents.engine import EngineCore, EngineLoop, EngineProfile, EngineRequest, RequestStats, StepOutput
from llmd_agents.hints import Demote, DirectiveOutcome, Prefetch, Warm
from tests.engine.stories import digest, profile, request

SIZES = profile(num_blocks=9, host_blocks=16)


class Engine:
    """A loop around a core, and what it told."""

    def __init__(self, time_scale: float, *, virtual: bool, sizes: EngineProfile = SIZES) -> None:
        self.steps: list[StepOutput] = []
        self._ended: dict[str, asyncio.Future[RequestStats | None]] = {}
        clock: dict[str, Any] = {"wall": asyncio.get_running_loop().time} if virtual else {}
        self.core = EngineCore(sizes)
        self.loop = EngineLoop(
            self.core,
            time_scale=time_scale,
            on_step=self.steps.append,
            on_end=lambda name, stats: self._ended[name].set_result(stats),
            **clock,
        )
        self.loop.start()

    def submit(self, asked: EngineRequest) -> "asyncio.Future[RequestStats | None]":
        ended = self._ended[asked.id] = asyncio.get_running_loop().create_future()
        self.loop.submit(asked)
        return ended

    async def ended(self, name: str, prompt: str) -> RequestStats:
        stats = await self.submit(request(name, prompt, boundaries=[(name[:1], 8)]))
        assert stats is not None
        return stats


Story = Callable[[Engine], Coroutine[Any, Any, list[float]]]


def tell(story: Story, time_scale: float | None) -> list[float]:
    """Runs a story; with None in virtual time."""

    async def run() -> list[float]:
        engine = Engine(time_scale or 1.0, virtual=time_scale is None)
        try:
            return await story(engine)
        finally:
            engine.loop.stop()

    return run_virtual(run()) if time_scale is None else asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  (whoever brings it about tells nobody)
        await asyncio.sleep(0.01)


async def loads_on_demand(engine: Engine) -> list[float]:
    await engine.ended("A", "abcdefgh")
    await engine.ended("P", "0" * 32)
    again = await engine.ended("A again", "abcdefgh+")
    return [again.cached_tokens, again.queue_s, again.ttft_s]


async def prefetch_while_idle(engine: Engine) -> list[float]:
    await engine.ended("A", "abcdefgh")
    await engine.ended("P", "0" * 32)
    outcome = engine.loop.direct("a", Prefetch(digest=digest("A"), tier="host"))
    assert isinstance(outcome, DirectiveOutcome)
    assert outcome.outcome == "applied"
    await until(lambda: engine.core.next_event() is None)
    changes = [change for step in engine.steps for change in step.residency if change.tier == "device"]
    assert (changes[-1].digest, changes[-1].resident) == (digest("A"), True)
    again = await engine.ended("A again", "abcdefgh+")
    return [again.cached_tokens, again.queue_s, again.ttft_s]


async def warm_while_idle(engine: Engine) -> list[float]:
    await engine.ended("A", "abcdefgh")
    await engine.ended("P", "0" * 32)
    assert engine.core.reset_prefix_cache()
    engine.loop.direct("a", Warm(digest=digest("A")))
    await until(lambda: bool(engine.core.resident()) and not engine.core.has_work)
    again = await engine.ended("A again", "abcdefgh+")
    return [again.cached_tokens]


@pytest.mark.parametrize("time_scale", [None, 40.0, 1000.0])
@pytest.mark.parametrize(
    ("story", "expected"),
    [
        (loads_on_demand, [8, 0.03, 1.13]),
        (prefetch_while_idle, [8, 0.0, 1.1]),
        (warm_while_idle, [8]),
    ],
)
def test_modelled_times_do_not_depend_on_the_scale(
    story: Story, expected: list[float], time_scale: float | None
) -> None:
    assert tell(story, time_scale) == pytest.approx(expected)


def test_a_request_that_comes_during_a_load_is_admitted_at_once() -> None:
    async def story(engine: Engine) -> list[float]:
        await engine.ended("A", "abcdefgh")
        await engine.ended("P", "0" * 32)
        again = engine.submit(request("again", "abcdefgh+"))
        await asyncio.sleep(0.02)  # the load ends after 0.03 s
        other = await engine.ended("X", "xyz")
        done = await again
        assert done is not None
        return [other.queue_s, other.ttft_s, done.cached_tokens, done.queue_s]

    # The step of the other takes 1.3 s; what is loaded meanwhile is admitted after it.
    assert tell(story, None) == pytest.approx([0.0, 1.3, 8, 0.02 + 1.3])


def test_a_directive_alone_tells_of_residency() -> None:
    async def story(engine: Engine) -> list[float]:
        await engine.ended("A", "abcdefgh")
        before = len(engine.steps)
        engine.loop.direct("a", Demote(digest=digest("A")))
        (told,) = engine.steps[before:]
        assert [(each.tier, each.resident) for each in told.residency] == [("device", False)]
        return [told.duration_s]

    assert tell(story, None) == [0.0]


def test_nothing_spins_in_virtual_time() -> None:
    async def story(engine: Engine) -> list[float]:
        await loads_on_demand(engine)
        await asyncio.sleep(1000.0)
        idle = [step for step in engine.steps if not step.duration_s]
        return [float(len(idle)), asyncio.get_running_loop().time()]

    # The one step that found nothing to do but to wait.
    idle, now = tell(story, None)
    assert idle == 1
    assert 1000.0 < now < 1010.0


def test_aborting_who_waits_for_a_load_frees_the_others() -> None:
    async def story(engine: Engine) -> list[float]:
        await engine.ended("A", "abcdefgh")
        await engine.ended("P", "0" * 32)
        again = engine.submit(request("again", "abcdefgh+"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        engine.loop.abort("again")
        assert await again is None
        other = await engine.ended("X", "xyz")
        return [other.queue_s]

    assert tell(story, None) == [0.0]
