"""A run with faults, recorded by the router, decides the same when it is fed to a fresh runtime."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import openai
from openai import AsyncOpenAI

from llmd_agents.client import Forecast, instrument, program, tool_call
from llmd_agents.engine import EngineServer
from llmd_agents.hints import KV_PATH
from llmd_agents.runtime import redecide
from llmd_agents.serving import App, Receive, Scope, Send, read_body, send_bytes
from tests.stack.servers import FAST, small_profile, stack

PROGRAMS = 36


class Flaky:
    """An embedded engine that refuses some calls, and answers some directives with nonsense."""

    def __init__(self, *, call_every: int, directive_every: int) -> None:
        self._engine = EngineServer(small_profile(host_blocks=2000), time_scale=FAST)
        self._calls = itertools.count(1)
        self._messages = itertools.count(1)
        self._call_every = call_every
        self._directive_every = directive_every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            calls, every = self._calls, self._call_every
            if scope["path"] == KV_PATH:
                calls, every = self._messages, self._directive_every
            if next(calls) % every == 0:
                await read_body(receive, limit=1 << 24)
                await send_bytes(send, 503, b"<html>out of order</html>", b"text/html")
                return
        await self._engine(scope, receive, send)

    def close(self) -> None:
        self._engine.close()


async def run_program(client: AsyncOpenAI, number: int) -> None:
    shared = [{"role": "system", "content": f"program {number} reads this. " * 400}]

    async def ask(*texts: str) -> str:
        messages = shared + [{"role": "user", "content": text} for text in texts]
        reply = await client.chat.completions.create(model="m", messages=messages, max_tokens=20)  # type: ignore[arg-type]
        return reply.choices[0].message.content or ""

    async with program(f"flow-{number % 3}") as run:
        with run.label(kind="plan", forecast=Forecast(next="fork", fan_out=3)):
            plan = await ask("plan")
        with tool_call("search", expected=2.0):
            await asyncio.sleep(0.01)
        async with run.fork(3) as fork:
            drafts = await fork.map(lambda style: ask("plan", plan, style), ["plain", "vivid", "terse"])
        if number % 5 == 0:
            raise RuntimeError("given up")
        await ask("plan", plan, *drafts)


async def run_all(base_url: str) -> None:
    async with instrument(AsyncOpenAI(base_url=base_url, api_key="none", max_retries=1)) as client:

        async def one(number: int) -> None:
            with contextlib.suppress(RuntimeError, openai.APIStatusError, ExceptionGroup):
                await run_program(client, number)

        for start in range(0, PROGRAMS, 6):
            await asyncio.gather(*(one(number) for number in range(start, start + 6)))


def test_a_recorded_run_with_faults_decides_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    engines: list[App] = [
        Flaky(call_every=9, directive_every=10**6),
        Flaky(call_every=7, directive_every=4),
        EngineServer(small_profile(), time_scale=FAST, eviction="lru"),
    ]
    with stack(engines, record=path) as servers:
        asyncio.run(run_all(f"{servers.router}/v1"))
    with path.open("rb") as lines:
        result = redecide(lines)
    assert result.first_difference is None
    assert result.directives >= 100
    assert result.rankings >= PROGRAMS
    recorded = path.read_bytes()
    assert b'"is":"engine_failed"' in recorded
    assert b"reads this" not in recorded
