"""What the client library costs a call: the same calls with and without it, alternating, in one run.

    python -m tests.benchmarks.bench_client

Prints one JSON object; `docs/client.md` says what its members mean. CPU is that of the whole process, the
thread that sends events included; the server is another process.
"""

import asyncio
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from openai import OpenAI

from llmd_agents import Forecast, instrument, program
from llmd_agents.hints import HINTS_HEADER
from llmd_agents.hints.limits import HEADER_MAX_BYTES
from tests.benchmarks import bench_codec
from tests.benchmarks.stub_server import stub_server

CONVERSATION_MESSAGES = 40
CONVERSATION_BYTES = 600_000
TURNS = 6
ROUNDS = 12
SHORT_CALLS = 40
CHILDREN = 1000
IMPORTS = 9

_WORDS = ("the", "harbour's", "gauge", "reads", "12", '"metres"', "above", "zero.\n", "def", "f(x):", "Höhe")


def text(size: int, draws: random.Random) -> str:
    """Returns about `size` bytes of prose and code."""
    words: list[str] = []
    written = 0
    while written < size:
        words.append(draws.choice(_WORDS))
        written += len(words[-1]) + 1
    return " ".join(words)


def conversation(seed: int) -> list[dict[str, str]]:
    draws = random.Random(seed)
    each = CONVERSATION_BYTES // CONVERSATION_MESSAGES
    roles = ["system", *(("user", "assistant") * CONVERSATION_MESSAGES)]
    return [{"role": roles[n], "content": text(each, draws)} for n in range(CONVERSATION_MESSAGES)]


def cpu(work: Callable[[], object]) -> tuple[float, float]:
    """Returns the CPU and the wall time of something, in seconds."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - busy, time.perf_counter() - wall


def alternating(
    clients: dict[str, OpenAI], turn: int, call: Callable[[OpenAI], object]
) -> dict[str, tuple[float, float]]:
    """Returns CPU and wall time of a call with each client; who is first changes from turn to turn."""
    names = sorted(clients, reverse=bool(turn % 2))
    return {name: cpu(lambda client=clients[name]: call(client)) for name in names}  # type: ignore[misc]


def long_turns(clients: dict[str, OpenAI]) -> dict[str, float]:
    """Next turns of a long conversation: what is added per call, over the time that `json.dumps` takes."""
    added: list[float] = []
    walls: list[float] = []
    dumps: list[float] = []
    draws = random.Random(0)
    for number in range(ROUNDS):
        said = conversation(number)
        with program("bench"):
            for turn in range(TURNS):
                found = alternating(clients, turn, partial(ask, said=said))
                if turn:  # the first turn of a conversation is read whole
                    added.append(found["hinted"][0] - found["bare"][0])
                    walls.append(found["hinted"][1] / found["bare"][1])
                    dumps.append(cpu(partial(json.dumps, {"messages": said, "model": "m"}))[0])
                said += [
                    {"role": "assistant", "content": "fine"},
                    {"role": "user", "content": text(800, draws)},
                ]
    return {
        "dumps_us": statistics.median(dumps) * 1e6,
        "added_us": statistics.median(added) * 1e6,
        "added_over_dumps": statistics.median(added) / statistics.median(dumps),
        "wall_ratio": statistics.median(walls),
    }


def short_calls(clients: dict[str, OpenAI]) -> dict[str, float]:
    """Calls of 1 KB, no two alike: what is added, over the call."""
    numbers = itertools.count()
    added: list[float] = []
    bare: list[float] = []

    def ask_often(client: OpenAI) -> None:
        for _ in range(SHORT_CALLS):
            asked = {"role": "user", "content": f"{next(numbers):0450}"}
            ask(client, [{"role": "system", "content": "x" * 450}, asked])

    with program("bench"):
        for turn in range(2 * ROUNDS):
            found = alternating(clients, turn, ask_often)
            if turn > 1:
                added.append((found["hinted"][0] - found["bare"][0]) / SHORT_CALLS)
                bare.append(found["bare"][0] / SHORT_CALLS)
    return {
        "bare_us": statistics.median(bare) * 1e6,
        "added_us": statistics.median(added) * 1e6,
        "added_over_call": statistics.median(added) / statistics.median(bare),
    }


def fork_children(hinted: OpenAI) -> dict[str, float]:
    """A fork of many children that do nothing, over as many tasks of a group."""

    async def nothing(_: int) -> None:
        return None

    async def bare() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CHILDREN):
                group.create_task(nothing(number))

    async def forked() -> None:
        async with program("bench") as run:
            ask(hinted, [{"role": "user", "content": "plan"}])
            begun = time.process_time()
            async with run.fork(CHILDREN) as fork:
                await fork.map(nothing, range(CHILDREN))
            spent.append(time.process_time() - begun)

    async def grouped() -> None:
        begun = time.process_time()
        await bare()
        base.append(time.process_time() - begun)

    spent: list[float] = []
    base: list[float] = []
    for _ in range(ROUNDS):
        asyncio.run(grouped())
        asyncio.run(forked())
    return {"us_per_child": (statistics.median(spent) - statistics.median(base)) / CHILDREN * 1e6}


def imports() -> dict[str, float]:
    """What importing the library adds to importing openai, and what all does that a first program needs:
    the import, a client prepared, a program begun. Each in new processes."""
    imported = "from llmd_agents import instrument, program, tool"
    begun = "instrument(client); program('bench').__enter__()"
    return {
        "added_ms": _in_new_processes("", imported),
        "first_use_ms": _in_new_processes("client = openai.OpenAI(api_key='k')", f"{imported}; {begun}"),
    }


def _in_new_processes(before: str, work: str) -> float:
    timed = ("import time, openai", before, "begun = time.perf_counter()", work)
    code = "\n".join((*timed, "print(time.perf_counter() - begun)"))
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(IMPORTS)
    ]
    return statistics.median(found) * 1e3


def header_bytes(hinted: OpenAI) -> dict[str, int]:
    """The header of a typical step (a child of a fork, in a loop, with a forecast), and of a huge prompt."""
    sizes: list[int] = []
    hinted._client.event_hooks["request"].append(
        lambda request: sizes.append(len(request.headers[HINTS_HEADER]))
    )
    said = conversation(1)[:5]
    with program("essay-grading", priority=70) as run, run.fork(8, name="grade") as fork, fork.branch():
        for _ in run.loop("react", limit=12):
            with run.label(kind="act", agent="grader", forecast=Forecast(next="tool", after=5.0, sigma=0.5)):
                ask(hinted, said)
            said += [{"role": "assistant", "content": "search"}, {"role": "user", "content": "found"}]
    with program("long"):
        ask(hinted, [*conversation(1), *conversation(2) * 20])
    return {"typical": round(statistics.median(sizes[1:-1])), "longest": max(sizes), "cap": HEADER_MAX_BYTES}


def ask(client: OpenAI, said: Any) -> None:
    client.chat.completions.create(model="m", messages=said)


def measure() -> dict[str, Any]:
    with stub_server() as url:
        bare, hinted = OpenAI(base_url=url, api_key="k"), instrument(OpenAI(base_url=url, api_key="k"))
        clients = {"bare": bare, "hinted": hinted}
        with bare, hinted:
            return {
                "long_turn": long_turns(clients),
                "short_call": short_calls(clients),
                "fork": fork_children(hinted),
                "import": imports(),
                "header": header_bytes(hinted),
                "codec": bench_codec.measure(),
            }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
