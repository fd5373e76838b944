"""One trial: the programs, all at once, on engines that are busy with recorded sessions."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai

from .background import Background, Heard
from .background_sessions import ScaledSession, mean_pause_s, openings
from .counters import Counters
from .engines import Engine
from .fleet import Fleet, fleet, total
from .fleet_arms import Arm, Size
from .program_calls import Caller, computed_again
from .programs import PROGRAMS


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is the same for all trials that may be compared.

    Attributes:
        calls_per_s: of the background, were calls to take no time; recorded pauses are shortened so far.
        settle_s: of background alone, after the caches have been filled.
    """

    engines: int = 3
    size: Size = field(default_factory=Size)
    calls_per_s: float = 2.0
    settle_s: float = 2.0

    @property
    def tokens(self) -> int:
        """What all caches of the fleet hold."""
        return self.engines * self.size.tokens


@dataclass(frozen=True, order=True)
class Trial:
    """Which arm, how much context the open sessions have over what all caches hold, and which seed."""

    arm: str
    pressure: float
    seed: int

    @property
    def texts(self) -> int:
        """The seed of all texts: engines that have run at another pressure must not remember them."""
        return self.seed + round(1000 * self.pressure)


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """Token counts are of the program's own calls, as they were answered."""

    completion_s: float
    prompt_tokens: int
    cached_tokens: int
    computed_again: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a trial.

    Attributes:
        programs: by name.
        prompt_tokens, cached_by_source, preemptions: the engines' own counters while the programs ran, of all
            calls, with what was brought ahead of its use.
        background_calls, background_prompt_tokens, background_cached_tokens: of the sessions' calls
            meanwhile, as they were answered.
        background_call_s: what those took in the mean.
        sessions, speed: how many were open, and what recorded pauses were divided by.
        directives: that the router sent in the whole trial, by type and what became of them.
    """

    programs: dict[str, ProgramResult]
    prompt_tokens: int
    cached_by_source: dict[str, int]
    preemptions: int
    background_calls: int
    background_prompt_tokens: int
    background_cached_tokens: int
    background_call_s: float
    refused: int
    sessions: int
    speed: float
    fill_s: float
    directives: dict[str, dict[str, int]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of_json(value: dict[str, Any]) -> "Result":
        programs = {name: ProgramResult(**one) for name, one in value["programs"].items()}
        return Result(**{**value, "programs": programs})


def run_trial(
    started: list[Engine],
    folder: Path,
    arm: Arm,
    trial: Trial,
    setup: Setup,
    sessions: Sequence[ScaledSession],
) -> Result:
    """Runs a trial on engines that have been started for its arm.

    Args:
        folder: for the router's configuration.

    Raises:
        NotReset, FleetError: if there is no fleet to run on.
        openai.OpenAIError: if a call fails.
    """
    with fleet(started, folder, arm) as running:
        return asyncio.run(_run(running, trial, setup, sessions))


async def _run(running: Fleet, trial: Trial, setup: Setup, sessions: Sequence[ScaledSession]) -> Result:
    opened = openings(sessions, trial.seed, trial.pressure * setup.tokens)
    speed = max(setup.calls_per_s * mean_pause_s(opened) / len(opened), 1.0)
    began = time.monotonic()
    async with running.client() as client:
        background = Background(client, opened, speed, trial.texts)
        async with background.playing():
            filled = time.monotonic()
            await asyncio.sleep(setup.settle_s)
            heard, before = background.heard.copy(), await _counters(running)
            programs = await _programs(client, trial.texts)
            meanwhile, after = _between(background.heard, heard), await _counters(running)
        counted = total(after, before)
        return Result(
            programs=programs,
            prompt_tokens=counted.prompt_tokens,
            cached_by_source=dict(counted.cached_by_source),
            preemptions=counted.preemptions,
            background_calls=meanwhile.calls,
            background_prompt_tokens=meanwhile.prompt_tokens,
            background_cached_tokens=meanwhile.cached_tokens,
            background_call_s=meanwhile.seconds / max(meanwhile.calls, 1),
            refused=meanwhile.refused,
            sessions=len(opened),
            speed=speed,
            fill_s=filled - began,
            directives=await asyncio.to_thread(running.directives),
        )


async def _programs(client: openai.AsyncOpenAI, seed: int) -> dict[str, ProgramResult]:
    async with asyncio.TaskGroup() as tasks:
        running = {name: tasks.create_task(_program(client, name, seed)) for name in PROGRAMS}
    return {name: task.result() for name, task in running.items()}


async def _program(client: openai.AsyncOpenAI, name: str, seed: int) -> ProgramResult:
    caller, began = Caller(client), time.monotonic()
    await PROGRAMS[name](caller, seed, f"{name}-{seed}")
    return ProgramResult(
        completion_s=time.monotonic() - began,
        prompt_tokens=sum(len(call.prompt) for call in caller.calls),
        cached_tokens=sum(call.cached for call in caller.calls),
        computed_again=computed_again(caller.calls),
    )


async def _counters(running: Fleet) -> list[Counters]:
    # Whoever reads must not keep the calls under way from being read.
    return await asyncio.to_thread(running.counters)


def _between(later: Heard, earlier: Heard) -> Heard:
    before = vars(earlier)
    return Heard(**{name: count - before[name] for name, count in vars(later).items()})
