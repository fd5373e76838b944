"""`python -m harness.demo`: two agent programs on real vLLM engines, with hints and without."""

import asyncio
import ctypes
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import openai
from rich.console import Console

from llmd_agents.demo.fleet import FleetError

from .demo_outcome import Outcome
from .demo_report import CACHED_FIRST, HINTED, STOCK, TITLES, print_report
from .engines import Engine, EngineFailed
from .fleet import ENGINES, NotReset, arm_engines, fleet, total
from .fleet_arms import ARMS, Arm, Size
from .program_calls import Caller, computed_again
from .programs import PROGRAMS
from .tiny_model import kept_model

COMPARED: Final = {STOCK: ARMS["lru"], CACHED_FIRST: ARMS["cached-first"], HINTED: ARMS["tier-c"]}
RUNS: Final = {"swarm": 1, "react": 9}
"""How many runs of each program go at once: several agents need more than the engines hold."""

SIZE: Final = Size(device_blocks=112, host_blocks=64, max_model_len=3072)


def demo(console: Console, folder: Path) -> None:
    """Runs everything, and prints what came of it.

    Args:
        folder: for logs.

    Raises:
        EngineFailed, FleetError, NotReset: if there is no fleet to run on.
        openai.OpenAIError: if a call fails.
    """
    with _step(console, "Making the tiny model", "a few seconds, once"):
        model = kept_model(Path(sys.prefix))
    found: dict[str, dict[str, Outcome]] = {name: {} for name in RUNS}
    for name, arm in COMPARED.items():
        with ExitStack() as running:
            logs = folder / name
            starting = f"Starting {ENGINES} vLLM engines: {TITLES[name]}"
            with _step(console, starting, f"about a minute; logs in {logs}"):
                engines = running.enter_context(arm_engines(model, logs, arm, SIZE))
            for program, runs in RUNS.items():
                shown = f"Running {program}" + (f", {runs} agents at once" if runs > 1 else "")
                with _step(console, f"{shown}: {TITLES[name]}", "10–20 s"):
                    found[program][name] = _run(program, runs, arm, engines, folder)
            with _step(console, "Stopping the engines", "a few seconds"):
                running.close()
    console.print()
    print_report(found, console)
    agents = ", ".join(f"{runs} of {program}" for program, runs in RUNS.items())
    console.print(
        f"Each of the {ENGINES} engines holds {SIZE.device_blocks} blocks of 32 tokens on the device and "
        f"{SIZE.host_blocks} on the host. So many agents run at once: {agents}. One router, which places "
        "calls by load and affinity, is in front of the engines in all rows.",
        style="dim",
    )


def _run(program: str, runs: int, arm: Arm, engines: list[Engine], folder: Path) -> Outcome:
    with fleet(engines, folder, arm) as running:
        before, began = running.counters(), time.monotonic()
        callers = asyncio.run(_programs(running.client(), program, runs))
        ended = time.monotonic()
        return Outcome(
            completion_s=ended - began,
            counters=total(running.counters(), before),
            computed_again=computed_again([call for caller in callers for call in caller.calls]),
            directives=running.directives(),
        )


async def _programs(client: openai.AsyncOpenAI, program: str, runs: int) -> list[Caller]:
    async with client, asyncio.TaskGroup() as tasks:
        callers = [Caller(client) for _ in range(runs)]
        for seed, caller in enumerate(callers):
            tasks.create_task(_program(program, caller, seed))
    return callers


async def _program(program: str, caller: Caller, seed: int) -> None:
    await PROGRAMS[program](caller, seed, f"{program}-{seed}")


@contextmanager
def _step(console: Console, doing: str, usually: str) -> Iterator[None]:
    began = time.monotonic()
    with console.status(f"{doing} ({usually}) …"):
        if not console.is_terminal:
            console.print(f"{doing} ({usually}) …", highlight=False, soft_wrap=True)
        yield
    console.print(f"{doing}: {time.monotonic() - began:.0f} s", highlight=False)


def main() -> int:
    console = Console()
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        console.print("vLLM's CPU build needs the system's libnuma: apt-get install libnuma1", style="red")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="llmd-vllm-demo-"))
    try:
        demo(console, folder)
    except KeyboardInterrupt:
        console.print("Stopped; all engines have ended.")
        code = 130
    except (EngineFailed, FleetError, NotReset, openai.OpenAIError, ExceptionGroup) as error:
        console.print(
            f"The demonstration cannot go on: {error}", markup=False, highlight=False, soft_wrap=True
        )
        console.print(f"The engines' logs are in {folder}", highlight=False, soft_wrap=True)
        return 1
    else:
        code = 0
    shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
