"""Trials in parallel: one process for each core, and clean ends, whichever way they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

from .trial import run_trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from .scenario import Scenario
    from .trial import Outcome, Trial

_POLL_S = 0.1
_progress: Connection | None = None


def run_trials(
    scenario: Scenario, trials: Sequence[Trial], on_progress: Callable[[], None]
) -> list[dict[str, Outcome]]:
    """Runs trials; returns each one's outcomes, by program.

    On an exception, such as a KeyboardInterrupt, all processes have ended before it leaves.

    Args:
        on_progress: called when caches are filled, and after each program.
    """
    # Spawned, not forked: this process may have threads, and workers must not inherit its signal handlers.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    workers = min(len(trials), _cores())
    with reader, writer, context.Pool(workers, _start, (writer,)) as pool:
        result = pool.map_async(partial(run_trial_in_worker, scenario), trials, chunksize=1)
        while not result.ready():
            _pass_on(reader, on_progress)
        while reader.poll():
            _pass_on(reader, on_progress)
        outcomes = result.get()
        pool.close()
        pool.join()
        return outcomes


def run_trial_in_worker(scenario: Scenario, trial: Trial) -> dict[str, Outcome]:
    return run_trial(scenario, trial, _tell)


def _pass_on(reader: Connection, on_progress: Callable[[], None]) -> None:
    if reader.poll(_POLL_S):
        reader.recv_bytes()
        on_progress()


def _tell() -> None:
    assert _progress is not None
    _progress.send_bytes(b".")  # short enough to be one write, whoever else writes


def _start(writer: Connection) -> None:
    global _progress
    _progress = writer
    if hasattr(os, "setpgrp"):
        # A group of its own: Ctrl-C is for the command to handle, and forks can be ended with their parent.
        os.setpgrp()
        # Waited for in a thread: a handler would not run if the signal came just before the main one blocks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_group_when_told, daemon=True).start()


def _end_group_when_told() -> None:
    signal.sigwait({signal.SIGTERM})
    os.killpg(0, signal.SIGKILL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
