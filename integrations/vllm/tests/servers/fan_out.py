"""A program that plans, has its parts done by branches of a declared fork, and joins them; over a router."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI

from harness.engines import Engine
from llmd_agents import instrument, program
from llmd_agents.hints import Forecast, Next

from .fleet import BLOCK, Fleet, context, in_common

WIDTH = 24


@dataclass(frozen=True)
class FannedOut:
    """
    Attributes:
        shared: tokens of whole blocks with which all its prompts begin.
        engines: that branches were served by.
        directives: by type and outcome.
    """

    shared: int
    engines: set[str]
    directives: dict[str, dict[str, int]]


def fan_out(fleet: Fleet, name: str) -> FannedOut:
    """Runs the program through a router of its own."""
    system = context(name, 600)[0]
    plan_of = [system, {"role": "user", "content": "Plan."}]
    prompts: list[list[dict[str, str]]] = [plan_of]

    async def run(url: str) -> str:
        client = instrument(AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))

        async def ask(messages: list[dict[str, str]]) -> str:
            prompts.append(messages)
            answer: Any = await client.chat.completions.create(
                model="tiny",
                messages=messages,  # type: ignore[arg-type]
                max_tokens=16,
                temperature=0,
                extra_body={"ignore_eos": True},
            )
            return str(answer.choices[0].message.content)

        async with program(name) as running:
            with running.label(kind="plan", forecast=Forecast(next=Next.FORK, fan_out=WIDTH)):
                plan = await ask(plan_of)

            async def part(index: int) -> str:
                return await ask(
                    [
                        *plan_of,
                        {"role": "assistant", "content": plan},
                        {"role": "user", "content": f"Part {index}, please."},
                    ]
                )

            async with running.fork(WIDTH, name="part") as fork:
                parts = await fork.map(part, range(WIDTH))
        await client.close()
        assert len(parts) == WIDTH
        return running.id

    with fleet.router() as url:
        program_id = asyncio.run(run(url))
        view = httpx.get(f"{url}/v1/agent/programs/{program_id}").raise_for_status().json()
    engines = {step["engine"] for step in view["steps"] if step["fork"] is not None}
    shared = in_common([tokens(fleet.engines[0], prompt) for prompt in prompts]) // BLOCK * BLOCK
    return FannedOut(shared, engines, view["directives"])


def tokens(engine: Engine, messages: list[dict[str, str]]) -> list[int]:
    """Returns the token ids of a chat."""
    body = {"model": "tiny", "messages": messages, "add_generation_prompt": True}
    found: list[int] = engine.client.post("/tokenize", json=body).raise_for_status().json()["tokens"]
    return found
