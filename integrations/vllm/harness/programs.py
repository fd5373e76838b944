"""The programs of `examples/`, so small that a tiny model on a CPU can run them.

Their form is the examples' own: what is asked of whom, what forks, what is declared. Texts are `SIZE` times
as long, pauses `TIME` times; what tools return is made here, since a model of random weights calls none.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from llmd_agents import Forecast, program, tool

from .made_text import made_text
from .program_calls import Caller

SIZE: Final = 1 / 16
TIME: Final = 1 / 10

THOUGHTS: Final = 8
GRADERS: Final = 24
TURNS: Final = 12

Program = Callable[[Caller, int, str], Awaitable[None]]
"""Runs a program to its end: its calls, the seed of its texts and pauses, its id."""


async def tree_of_thought(caller: Caller, seed: int, program_id: str) -> None:
    """Plans over documents, thinks from eight angles, a judge picks two, both are worked out."""
    shared = [_system("You plan coastal defences."), _user(_text(30_000, "documents", seed))]
    async with program("tree-of-thought", id=program_id) as tree:
        with tree.label(kind="plan", forecast=Forecast(next="fork", fan_out=THOUGHTS)):
            shared.append(_assistant(await caller.ask(shared, 16)))

        async def think(number: int) -> str:
            with tree.label(kind="reason"):
                return await caller.ask([*shared, _user(f"Think of angle {number}.")], 24)

        async with tree.fork(THOUGHTS, name="think") as fork:
            thoughts = await fork.map(think, range(THOUGHTS))
        with tree.label(kind="evaluate", forecast=Forecast(next="fork", fan_out=2)):
            await caller.ask([*shared, _user("Judge.\n" + "\n".join(thoughts))], 8)

        async def work_out(number: int) -> str:
            with tree.label(kind="reason"):
                question = _user(f"Think of angle {number}.")
                return await caller.ask(
                    [*shared, question, _assistant(thoughts[number]), _user("Work it out.")], 32
                )

        async with tree.fork(2, name="work out") as fork:
            plans = await fork.map(work_out, range(2))
        with tree.label(kind="synthesize", forecast=Forecast(next="end")):
            await caller.ask([*shared, _user("Answer.\n" + "\n".join(plans))], 32)


async def react(caller: Caller, seed: int, program_id: str) -> None:
    """Twelve turns of one tool each, with far more tools on offer than are ever called."""
    draws = random.Random(seed)
    tools = [
        {"type": "function", "function": {"name": f"connector_{number}", "description": _text(400, number)}}
        for number in range(20)
    ]

    def made(name: str, median_s: float, tokens: tuple[int, int]) -> Callable[[int], Awaitable[str]]:
        async def act(turn: int) -> str:
            await asyncio.sleep(TIME * median_s * draws.lognormvariate(0, 0.5))
            return _text(draws.randint(*tokens), name, seed, turn)

        act.__name__ = name
        return tool(expected=TIME * median_s)(act)

    acts = [made("search", 3, (500, 1000)), made("open", 5, (1000, 2000)), made("query", 4, (500, 1500))]
    messages = [_system("Use one tool at a time."), _user(f"Which walls of coast {seed} are too low?")]
    async with program("react", id=program_id) as agent:
        for turn in agent.loop("react", limit=TURNS):
            with agent.label(kind="act", forecast=Forecast(next="tool")):
                reply = await caller.ask(messages, 12, tools=tools, tool_choice="none")
            found = await acts[turn % 3](turn)
            result = {"role": "tool", "tool_call_id": f"call-{turn}", "content": found}
            messages += [_assistant(reply), result]
        with agent.label(kind="synthesize", forecast=Forecast(next="end")):
            await caller.ask(messages, 32, tools=tools, tool_choice="none")


async def swarm(caller: Caller, seed: int, program_id: str) -> None:
    """Graders read the same long rubric, each grades one essay, a coordinator sums up."""
    shared = [_system("You grade essays."), _user(_text(30_000, "rubric", seed))]
    async with program("swarm", id=program_id) as group:
        planned = Forecast(next="fork", fan_out=GRADERS)
        with group.label(kind="plan", agent="coordinator", forecast=planned):
            shared.append(_assistant(await caller.ask(shared, 16)))

        async def grade(number: int) -> str:
            with group.label(kind="evaluate", agent="grader"):
                return await caller.ask([*shared, _user(_text(1000, "essay", number, seed))], 12)

        async with group.fork(GRADERS, name="grade") as fork:
            grades = await fork.map(grade, range(GRADERS))
        with group.label(kind="synthesize", agent="coordinator", forecast=Forecast(next="end")):
            await caller.ask([*shared, _user("Report.\n" + "\n".join(grades))], 32)


async def pipeline(caller: Caller, seed: int, program_id: str) -> None:
    """A researcher reads, an analyst computes, a writer drafts; the researcher is asked once more."""
    draws = random.Random(seed)

    @tool(expected=TIME * 3)
    async def fetch(document: int) -> str:
        await asyncio.sleep(TIME * draws.lognormvariate(1.1, 0.4))
        return _text(draws.randint(3000, 8000), "document", document, seed)

    @tool(expected=TIME * 15)
    async def run_model(scenario: int) -> str:
        await asyncio.sleep(TIME * draws.lognormvariate(2.7, 0.3))
        return _text(800, "scenario", scenario, seed)

    async with program("pipeline", id=program_id) as line:

        async def ask(agent: str, said: list[dict[str, Any]], forecast: Forecast | None = None) -> str:
            with line.label(agent=agent, forecast=forecast):
                reply = await caller.ask(said, 24)
            said.append(_assistant(reply))
            return reply

        async def consult(agent: str, said: list[dict[str, Any]], act: Any, times: int) -> None:
            for number in range(times):
                await ask(agent, said)
                result = {"role": "tool", "tool_call_id": f"call-{number}", "content": await act(number)}
                said.append(result)

        researcher = [_system(_text(6000, "sources")), _user(f"What is known of harbour {seed}?")]
        await consult("researcher", researcher, fetch, 3)
        # The analyst and the writer take about two minutes; then the researcher is asked again.
        handover = Forecast(next="tool", agent="analyst", after=TIME * 120, sigma=0.5)
        findings = await ask("researcher", researcher, handover)
        analyst = [_system(_text(8000, "methods")), _user(f"What follows?\n{findings}")]
        await consult("analyst", analyst, run_model, 4)
        analysis = await ask("analyst", analyst)
        writer = [_system(_text(6000, "style")), _user(f"Write it up.\n{findings}\n{analysis}")]
        draft = await ask("writer", writer, Forecast(next="tool", after=TIME * 15))
        researcher.append(_user(f"Is anything wrong?\n{draft}"))
        critique = await ask("researcher", researcher)
        writer.append(_user(f"Put this right.\n{critique}"))
        await ask("writer", writer, Forecast(next="end"))


PROGRAMS: Final[dict[str, Program]] = {
    "tree-of-thought": tree_of_thought,
    "react": react,
    "swarm": swarm,
    "pipeline": pipeline,
}


def _text(tokens: int, *name: object) -> str:
    return made_text(round(tokens * SIZE), *name)


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
