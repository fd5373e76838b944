"""An engine that is killed under a router's calls: they are answered, and it begins anew when it is back."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from harness.engines import Engine
from llmd_agents import instrument, program, tool
from llmd_agents.hints import KV_PATH
from tests.servers.fleet import Fleet, context, engine_views, until

PROGRAMS = 12
KILLED = 1
NAME = f"engine-{KILLED}"


@tool(expected="60s")
async def look_up() -> str:
    await asyncio.sleep(0)
    return "Nothing."


class Calls:
    """Programs that make their calls at once over a router, turn by turn.

    Args:
        kill: ends an engine; called when as many calls have been answered as there are programs.
    """

    def __init__(self, client: AsyncOpenAI, kill: Callable[[], None] | None) -> None:
        self._client = client
        self._kill = kill
        self.answered = 0
        self.programs: list[str] = []

    async def turns(self, name: str, turns: int) -> None:
        messages = context(name, 100)
        async with program(name) as running:
            self.programs.append(running.id)
            for _ in range(turns):
                answer: Any = await self._client.chat.completions.create(
                    model="tiny",
                    messages=messages,  # type: ignore[arg-type]
                    max_tokens=8,
                    temperature=0,
                    extra_body={"ignore_eos": True},
                )
                self.answered += 1
                if self._kill is not None and self.answered == PROGRAMS:
                    await asyncio.to_thread(self._kill)
                reply = {"role": "assistant", "content": answer.choices[0].message.content}
                messages = [*messages, reply, {"role": "user", "content": await look_up()}]


def epoch(engine: Engine) -> str:
    return str(engine.client.get(KV_PATH).raise_for_status().json()["epoch"])


def directives_applied(router: str) -> float:
    """Returns how many directives the killed engine has carried out for a router."""
    text = httpx.get(f"{router}/metrics").raise_for_status().text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "llmd_router_directives_total"
        and sample.labels["engine"] == NAME
        and sample.labels["outcome"] == "applied"
    )


def held_by_it(router: str, programs: list[str]) -> list[str]:
    """Returns which branches have context on the killed engine, as far as the router knows."""
    held = []
    for each in programs:
        view = httpx.get(f"{router}/v1/agent/programs/{each}").raise_for_status().json()
        held += [f"{each} {branch['id']}" for branch in view["branches"] if NAME in branch["residency"]]
    return held


def test_an_engine_is_killed_and_comes_back(engines: Fleet) -> None:
    victim = engines.engines[KILLED]
    old = epoch(victim)

    async def some(name: str, turns: int, kill: Callable[[], None] | None = None) -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            calls = Calls(instrument(client), kill)
            async with asyncio.TaskGroup() as tasks:
                for at in range(PROGRAMS):
                    tasks.create_task(calls.turns(f"{name}-{at}", turns))
            assert calls.answered == PROGRAMS * turns
            return calls.programs

    def view() -> dict[str, Any]:
        return engine_views(url)[KILLED]

    with engines.router() as url:
        before = asyncio.run(some("before", 2))
        until(lambda: bool(held_by_it(url, before)))
        until(lambda: directives_applied(url) > 0)

        meanwhile = asyncio.run(some("meanwhile", 5, victim.kill))
        until(lambda: not view()["up"])
        assert view()["directives"] == []
        assert view()["load"] is None
        assert view()["failed"] > 0
        assert held_by_it(url, before + meanwhile) == []
        applied = directives_applied(url)

        victim.restart()
        assert epoch(victim) != old
        until(lambda: view()["up"] and bool(view()["directives"]))
        assert held_by_it(url, before + meanwhile) == []
        served = view()["requests"]

        after = asyncio.run(some("after", 2))
        assert view()["requests"] > served
        until(lambda: bool(held_by_it(url, after)))
        until(lambda: directives_applied(url) > applied)
