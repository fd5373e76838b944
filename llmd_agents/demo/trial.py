"""One trial: a program on a fleet in virtual time, under one arm, one pressure and one seed.

The programs of one arm share what comes before them: the caches are filled once, and the process forks then,
so that each program meets the same fleet in the same state.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Final, get_args

from llmd_agents.bench.background import SessionPlayer
from llmd_agents.bench.calls import CallRecord, join_stall_s, recomputed_tokens
from llmd_agents.bench.fleet_client import events_reach, fleet_client
from llmd_agents.bench.simulated_fleet import SimulatedFleet
from llmd_agents.bench.virtual_time import VirtualTimeLoop
from llmd_agents.client.ids import take_parents_place
from llmd_agents.hints import Prefetch, Result

from .arms import ARMS
from .programs import load_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from .scenario import Scenario

RESULTS: Final = get_args(Result)
GOLDEN: Final = 0.6180339887498949
"""Its multiples spread over 0 to 1 evenly, and without a pattern."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run.

    Attributes:
        pressure: 0 runs the program alone.
        programs: each meets the same fleet in the same state.
    """

    arm: str
    pressure: float
    seed: int
    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program. Times are modelled seconds; token counts are the program's own.

    Attributes:
        recomputed_tokens: prompt tokens computed though some engine had computed them before.
        join_stall_s: how long first branches waited for last ones.
        modelled_s: engines' time for its calls, added up.
        live_pressure: the background's context at the start, over what the caches hold.
        background_step_s: mean time of the background's calls that ended while the program ran.
        directives: that followed from the program's hints, by type and by what became of them.
        copies: times that context was brought to an engine ahead of a call, from a peer, and how much it was.
        loads: as `copies`, from a lower tier.
    """

    completion_s: float
    prompt_tokens: int
    cached_tokens: int
    recomputed_tokens: int
    join_stall_s: float
    calls: int = 0
    modelled_s: float = 0.0
    live_pressure: float = 0.0
    background_step_s: float | None = None
    directives: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: tuple[int, int] = (0, 0)
    loads: tuple[int, int] = (0, 0)


def run_trial(
    scenario: Scenario, trial: Trial, on_progress: Callable[[], None] = lambda: None
) -> dict[str, Outcome]:
    """Runs a trial in this process and forks of it; returns the outcome of each program.

    Args:
        on_progress: called when the caches are filled, and after each program.
    """
    if len(trial.programs) > 1 and not hasattr(os, "fork"):
        alone = [replace(trial, programs=(name,)) for name in trial.programs]
        return {
            name: outcome for one in alone for name, outcome in run_trial(scenario, one, on_progress).items()
        }
    outcomes: dict[str, Outcome] = {}
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        course = runner.run(_begin(scenario, trial))
        with events_reach(course.fleet):
            runner.run(course.fill())
            on_progress()
            for name in trial.programs:
                if len(trial.programs) == 1:
                    outcomes[name] = runner.run(course.run_program(name))
                else:
                    outcomes[name] = _forked(partial(_run_program, runner, course, name))
                on_progress()
            runner.run(course.end())
    return outcomes


async def _begin(scenario: Scenario, trial: Trial) -> _Course:
    arm, profile = ARMS[trial.arm], scenario.fleet.engine_profile()
    names = [f"engine-{index}" for index in range(scenario.fleet.engines)]
    cores = {name: arm.core(profile, scenario.aging_s) for name in names}
    return _Course(scenario, trial, SimulatedFleet(arm.runtime(names), cores))


def _run_program(runner: asyncio.Runner, course: _Course, name: str) -> Outcome:
    return runner.run(course.run_program(name))


def _forked(act: Callable[[], Outcome]) -> Outcome:
    """Returns what a fork of this process makes of a function.

    Raises:
        RuntimeError: if it fails there; why is on the standard error.
    """
    gc.freeze()  # spares the child from copying memory just to look for garbage in it
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        take_parents_place()
        try:
            data = pickle.dumps(act())
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(data)
        except BaseException:  # noqa: BLE001  (nothing of the parent's may be wound up here)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        raise RuntimeError("a trial ended without an outcome")
    outcome: Outcome = pickle.loads(data)  # noqa: S301  (our own child wrote it)
    return outcome


class _Course:
    """The course of one trial, inside the event loop."""

    def __init__(self, scenario: Scenario, trial: Trial, fleet: SimulatedFleet) -> None:
        self.fleet = fleet
        self._scenario = scenario
        self._trial = trial
        self._hints = ARMS[trial.arm].hints
        self._clients = AsyncExitStack()
        self._background: list[tuple[float, float]] = []
        self._players: list[SessionPlayer] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        """Starts the engines, and lets the background fill their caches."""
        self.fleet.start()
        if not self._trial.pressure:
            return
        load = self._scenario.load(self._trial.pressure)
        client = await self._clients.enter_async_context(
            fleet_client(self.fleet, hints=self._hints, on_call=self._note)
        )
        for place in range(load.sessions):
            player = SessionPlayer(
                client, self._scenario.background, self._trial.seed, place, load.task_turns
            )
            self._players.append(player)
            # Each begins somewhere in the middle of a session, at some time of its first round: both spread
            # evenly over the places.
            first = place * GOLDEN % 1.0
            delay_s = load.round_s * (place + 0.5) / load.sessions
            self._tasks.append(asyncio.create_task(player.play(first, delay_s), name=f"session {place}"))
        await asyncio.sleep(self._scenario.warm_up_s)

    async def run_program(self, name: str) -> Outcome:
        clock = asyncio.get_running_loop().time
        calls: list[CallRecord] = []
        began, live = clock(), self._live_pressure()
        program_id = f"{name}-{self._trial.seed}"
        async with fleet_client(self.fleet, hints=self._hints, on_call=calls.append) as client:
            await load_program(name)(client, seed=self._trial.seed, program_id=program_id)
        ended = clock()
        self._check_background()
        steps = [latency for at, latency in self._background if at >= began]
        directives, copies, loads = _directives(self.fleet, program_id)
        return Outcome(
            completion_s=ended - began,
            prompt_tokens=sum(call.stats.prompt_tokens for call in calls),
            cached_tokens=sum(call.stats.cached_tokens for call in calls),
            recomputed_tokens=recomputed_tokens(calls, self._scenario.fleet.engine_profile().block_size),
            join_stall_s=join_stall_s(calls),
            calls=len(calls),
            modelled_s=sum(call.stats.e2e_s for call in calls),
            live_pressure=live,
            background_step_s=fmean(steps) if steps else None,
            directives=directives,
            copies=copies,
            loads=loads,
        )

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._clients.aclose()
        self.fleet.stop()

    def _note(self, call: CallRecord) -> None:
        self._background.append((call.ended_at, call.ended_at - call.began_at))

    def _check_background(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()  # sessions play for ever: it can only have failed

    def _live_pressure(self) -> float:
        """Returns the context of all open sessions, shared heads once, over what the caches hold."""
        heads = self._scenario.background.head_tokens
        own = sum(max(player.context_tokens - heads[player.workflow], 0) for player in self._players)
        shared = sum(heads[workflow] for workflow in {player.workflow for player in self._players})
        return (own + shared) / self._scenario.fleet.tokens


def _directives(
    fleet: SimulatedFleet, program_id: str
) -> tuple[dict[str, dict[str, int]], tuple[int, int], tuple[int, int]]:
    """Returns what followed from a program's hints: directives by type and outcome, and of the prefetches
    that brought something, how many came from peers and from lower tiers, and how many tokens."""
    counts: dict[str, dict[str, int]] = {}
    brought = {True: (0, 0), False: (0, 0)}
    for issued, outcome in fleet.answers:
        if issued.program != program_id:
            continue
        result = outcome.outcome if outcome is not None else "undelivered"
        by_result = counts.setdefault(issued.directive.type, dict.fromkeys(RESULTS, 0))
        by_result[result] = by_result.get(result, 0) + 1
        if isinstance(issued.directive, Prefetch) and result in ("applied", "clipped"):
            tokens = (outcome.tokens or 0) if outcome is not None else 0
            count, before = brought[issued.directive.peer is not None]
            brought[issued.directive.peer is not None] = (count + 1, before + tokens)
    return counts, brought[True], brought[False]
