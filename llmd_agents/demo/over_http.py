"""The demo's programs over HTTP: client, router and engines as processes, as an installation has them.

There is no background: one machine could not serve it as fast as a fleet does. It shows that what runs in
virtual time is what runs over sockets.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI
from rich.table import Table

from llmd_agents.bench.scaled_time import scaled_time
from llmd_agents.client import instrument
from llmd_agents.client.sender import httpx

from .fleet import local_fleet
from .programs import load_program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from .scenario import Scenario


@dataclass(frozen=True, slots=True)
class HttpOutcome:
    """What came of one program. Times are modelled seconds.

    Attributes:
        completion_s: by the client's clock, so that what HTTP and Python take counts, times the scale.
        modelled_s: engines' time for its calls, added up, as they state it.
    """

    name: str
    completion_s: float
    modelled_s: float
    calls: int
    prompt_tokens: int
    cached_tokens: int


def run_over_http(
    scenario: Scenario, programs: Sequence[str], time_scale: float, seed: int = 1
) -> list[HttpOutcome]:
    """Runs programs one after the other, each with engines of its own.

    Args:
        time_scale: modelled seconds per second of the wall.

    Raises:
        FleetError: if the servers do not start.
    """
    profile = scenario.fleet.engine_profile()
    options = [
        *("--profile", scenario.fleet.profile, "--block-size", str(profile.block_size)),
        *("--num-blocks", str(profile.num_blocks), "--host-blocks", str(profile.host_blocks)),
        *("--eviction", "next-use", "--dispatch", "cached-first", "--aging-bound", str(scenario.aging_s)),
        *("--time-scale", str(time_scale)),
    ]
    found: list[HttpOutcome] = []
    for name in programs:
        with (
            local_fleet(scenario.fleet.engines, options) as fleet,
            asyncio.Runner(loop_factory=scaled_time(time_scale)) as runner,
        ):
            found.append(runner.run(_run(fleet.router, name, seed)))
    return found


async def _run(router: str, name: str, seed: int) -> HttpOutcome:
    answers: list[Any] = []

    async def note(response: httpx.Response) -> None:
        answers.append(json.loads(await response.aread()))

    clock = asyncio.get_running_loop().time
    # No timeouts: they would shrink with the scale.
    http = httpx.AsyncClient(event_hooks={"response": [note]}, timeout=None)
    async with AsyncOpenAI(
        base_url=f"{router}/v1", api_key="none", http_client=http, timeout=None, max_retries=0
    ) as client:
        began = clock()
        await load_program(name)(instrument(client), seed=seed, program_id=f"{name}-{seed}")
        ended = clock()
    usages = [answer["usage"] for answer in answers]
    return HttpOutcome(
        name=name,
        completion_s=ended - began,
        modelled_s=sum(answer["llmd"]["e2e_s"] for answer in answers),
        calls=len(answers),
        prompt_tokens=sum(usage["prompt_tokens"] for usage in usages),
        cached_tokens=sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages),
    )


def print_over_http(found: Sequence[HttpOutcome], console: Console) -> None:
    table = Table(title="Over HTTP, without background", title_justify="left")
    for column in ("", "done after", "time at the engines", "calls", "prompt tokens", "from cache"):
        table.add_column(column, justify="right" if column else "left")
    for item in found:
        table.add_row(
            item.name,
            f"{item.completion_s:,.1f} s",
            f"{item.modelled_s:,.1f} s",
            *(f"{count:,}" for count in (item.calls, item.prompt_tokens, item.cached_tokens)),
        )
    console.print(table)


def as_json(found: Sequence[HttpOutcome]) -> list[dict[str, Any]]:
    return [asdict(item) for item in found]
