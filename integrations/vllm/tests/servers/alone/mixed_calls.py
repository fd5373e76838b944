"""Two hundred calls to one engine, as agents make them: conversations with pauses, forks, single questions.

What a call says depends on nothing but the answers before it, so that runs can be compared call by call. Only
when calls overlap differs from run to run.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from openai import AsyncOpenAI

from harness.engines import Engine
from harness.hinted import tip
from llmd_agents import instrument, program
from llmd_agents.client.run import Run
from llmd_agents.hints import (
    KV_PATH,
    Directive,
    Forecast,
    Next,
    Release,
    Retain,
    Warm,
    decode_outcomes,
    encode_directives,
)
from tests.servers.fleet import TELLING

CONVERSATIONS: Final = 5
TURNS: Final = 5
FORKS: Final = 15
WIDTH: Final = 5
SINGLES: Final = 70
CALLS: Final = CONVERSATIONS * TURNS + FORKS * (WIDTH + 2) + SINGLES
AT_ONCE: Final = 8

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answered:
    text: str
    cached_tokens: int
    prompt_tokens: int


@dataclass
class Mixed:
    """What became of the calls, by program and number; and of the directives, by type and outcome."""

    calls: dict[tuple[str, int], Answered] = field(default_factory=dict)
    directives: Counter[tuple[str, str]] = field(default_factory=Counter)

    def changed(self, other: "Mixed") -> int:
        """Returns how many calls were answered with another text there."""
        return sum(self.calls[call].text != other.calls[call].text for call in self.calls)

    def cached(self, kind: str = "") -> int:
        return sum(one.cached_tokens for (name, _), one in self.calls.items() if name.startswith(kind))


def run(engine: Engine, *, hinted: bool) -> Mixed:
    """Makes all calls.

    Args:
        hinted: the client sends hints, and directives follow what the programs do.
    """
    return asyncio.run(_Mixing(engine, hinted).all())


class _Mixing:
    def __init__(self, engine: Engine, hinted: bool) -> None:
        self._mixed = Mixed()
        self._engine = engine
        self._hinted = hinted
        self._free = asyncio.Semaphore(AT_ONCE)
        self._others_done = 0
        self._changed = asyncio.Condition()

    async def all(self) -> Mixed:
        async with (
            AsyncOpenAI(base_url=f"{self._engine.url}/v1", api_key="none", max_retries=0) as client,
            httpx.AsyncClient(base_url=self._engine.url, timeout=60) as direct,
        ):
            self._client = instrument(client) if self._hinted else client
            self._direct = direct
            others = [self._fork(at) for at in range(FORKS)] + [self._single(at) for at in range(SINGLES)]
            random.Random(0).shuffle(others)
            waiting = iter(others)
            async with asyncio.TaskGroup() as tasks:
                for at in range(CONVERSATIONS):
                    tasks.create_task(self._conversation(at))
                for _ in range(AT_ONCE):
                    tasks.create_task(self._one_after_another(waiting))
        return self._mixed

    async def _one_after_another(self, programs: Any) -> None:
        for one in programs:
            await one

    # --- programs

    async def _conversation(self, at: int) -> None:
        """Each turn comes when the other programs have made a fifth of their calls since the last."""
        name = f"conversation-{at}"
        messages = [_system(name, 30)]
        pause = (CALLS - CONVERSATIONS * TURNS) // (TURNS + 1)
        async with program(name) as running:
            for turn in range(TURNS):
                await self._wait_for_others(turn * pause + 3 * at)
                if turn:
                    await self._direct_to(Warm(digest=tip(messages[:-1])))
                messages.append(_user(f"Turn {turn} of {name}."))
                until_then = Forecast(next=Next.TOOL, after=1.0, sigma=0.5)
                text = await self._ask(running, name, turn, messages, until_then)
                await self._direct_to(Retain(digest=tip(messages), after=1.0, sigma=0.5, expires=600.0))
                messages = [*messages, {"role": "assistant", "content": text}]

    async def _fork(self, at: int) -> None:
        name = f"fork-{at}"
        plan_of = [_system(f"family-{at % 4}", 60), _user(f"Plan {name}.")]
        async with program(name) as running:
            plan = await self._ask(running, name, 0, plan_of, Forecast(next=Next.FORK, fan_out=WIDTH))
            planned = [*plan_of, {"role": "assistant", "content": plan}]

            async def part(index: int) -> str:
                messages = [*planned, _user(f"Part {index} of {name}, and nothing else. " * 3)]
                text = await self._ask(running, name, 1 + index, messages, Forecast(next=Next.END))
                await self._direct_to(Release(digest=tip(messages), keep=tip(plan_of)))
                return text

            async with running.fork(WIDTH) as fork:
                parts = await fork.map(part, range(WIDTH))
            joined = [*planned, _user(" ".join(parts))]
            await self._ask(running, name, 1 + WIDTH, joined, Forecast(next=Next.END))
        await self._direct_to(Release(digest=tip(joined), keep=tip(plan_of[:1])))

    async def _single(self, at: int) -> None:
        name = f"single-{at}"
        messages = [_system(f"family-{at % 6}", 40 + 10 * (at % 5)), _user(f"Question {at}. " * 20)]
        async with program(name) as running:
            await self._ask(running, name, 0, messages, Forecast(next=Next.END))
        await self._direct_to(Release(digest=tip(messages)))

    # --- calls and directives

    async def _ask(self, running: Run, name: str, number: int, messages: Messages, forecast: Forecast) -> str:
        call: Callable[..., Coroutine[Any, Any, Any]] = self._client.chat.completions.create
        async with self._free:
            with running.label(forecast=forecast):
                answer = await call(
                    model="tiny",
                    messages=messages,
                    max_tokens=8 + (7 * number + len(name)) % 17,
                    extra_body={"ignore_eos": True},
                    **TELLING,
                )
        usage, text = answer.usage, str(answer.choices[0].message.content)
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details is not None else 0
        self._mixed.calls[name, number] = Answered(text, cached, usage.prompt_tokens)
        if not name.startswith("conversation"):
            async with self._changed:
                self._others_done += 1
                self._changed.notify_all()
        return text

    async def _wait_for_others(self, calls: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._others_done >= calls)

    async def _direct_to(self, directive: Directive) -> None:
        if not self._hinted:
            return
        response = await self._direct.post(KV_PATH, content=encode_directives("m", [("a", directive)]))
        (outcome,) = decode_outcomes(response.raise_for_status().content).outcomes
        self._mixed.directives[directive.type, outcome.outcome] += 1


def _system(name: str, words: int) -> dict[str, str]:
    return {"role": "system", "content": f"{name} keeps what follows. " + f"word {name} " * (words // 2)}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
