"""What `llmd-agents demo` does: every program under every arm, pressure and seed, then the report."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .arms import ARMS
from .pool import run_trials
from .results import gather
from .trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .results import Row
    from .scenario import Scenario

QUICK_PRESSURE = 2.0


def run_demo(
    scenario: Scenario, programs: Sequence[str], pressures: Sequence[float], seeds: int
) -> list[Row]:
    """Runs programs under every arm; shows how far it is if there is a terminal to show it on.

    Args:
        programs: names, of `programs.PROGRAMS`.
        seeds: how many; they are numbered from 1.
    """
    trials = [
        Trial(arm, pressure, seed, tuple(programs))
        for pressure in pressures
        for seed in range(1, seeds + 1)
        for arm in ARMS
    ]
    with _progress(len(trials) * (1 + len(programs))) as advance:
        return gather(trials, run_trials(scenario, trials, advance))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("simulating", total=total)
        yield lambda: bar.advance(task)
