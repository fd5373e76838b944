"""Background load: coding-agent sessions in a closed loop, drawn ahead of time from a seed.

A session begins with the head of its workflow (tools and system prompt, which other sessions share) and a
task, and grows with every turn: the model replies, a tool runs, its result is the next turn. A task of some
turns ends with a person, who thinks before giving the next one. After its turns the session ends, and another
takes its place. Some are compacted on the way: the context becomes the head and a summary.

What a session does follows from the seed, its place and how many were there before it, never from how
fast it is served.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from llmd_agents.client import Forecast, program, tool_call

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Positive = Annotated[float, Field(gt=0)]
Tokens = Annotated[int, Field(ge=1)]
TokenRange = tuple[Tokens, Tokens]

_FILLER: Final = "".join(f"line {line}: nothing of note here.\n" for line in range(20_000))
_MESSAGE_TOKENS: Final = 2


class Tool(BaseModel):
    """A tool: its typical duration, and how often it is called beside the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    median_s: Positive
    weight: Positive = 1.0


class Background(BaseModel):
    """What sessions are like. Ranges of tokens are drawn log-uniformly, numbers of turns uniformly.

    Attributes:
        busy: share of the engines' time that the sessions' new tokens and replies take, if every prefix is
            cached; the number of turns between two people's pauses follows from it.
        head_tokens: length of each workflow's head.
        start_tokens: the first task.
        turn_tokens: a tool's result, or a person's next task.
        compacted: chance that a session is compacted, once, after `compacted_after` of its turns.
        tool_sigma: of the logarithm of a tool's duration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    busy: Annotated[float, Field(gt=0, lt=1)]
    head_tokens: Annotated[tuple[Tokens, ...], Field(min_length=1)]
    start_tokens: TokenRange
    turn_tokens: TokenRange
    reply_tokens: TokenRange
    turns: TokenRange
    compacted: Annotated[float, Field(ge=0, le=1)]
    compacted_after: Annotated[float, Field(gt=0, lt=1)]
    summary_tokens: TokenRange
    tools: dict[str, Tool]
    tool_sigma: Positive
    human_median_s: Positive
    human_sigma: Positive


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a session, and the pause after it.

    Attributes:
        tokens: new tokens of its prompt, beside the reply before.
        compacts: the context before it is replaced by the head and these tokens.
        tool: what the pause waits for; None for a person.
    """

    tokens: int
    reply_tokens: int
    compacts: bool
    tool: str | None
    pause_s: float


@dataclass(frozen=True, slots=True)
class Session:
    """A drawn session; `workflow` counts the heads."""

    name: str
    workflow: int
    start_tokens: int
    turns: tuple[Turn, ...]

    def contexts(self, background: Background) -> list[int]:
        """Returns the length of its context, in tokens, after each turn."""
        head = background.head_tokens[self.workflow] + _MESSAGE_TOKENS
        lengths: list[int] = []
        length = head + self.start_tokens
        for turn in self.turns:
            length = head + turn.tokens if turn.compacts else length + turn.tokens
            length += turn.reply_tokens + 2 * _MESSAGE_TOKENS
            lengths.append(length)
        return lengths


def draw_session(background: Background, seed: int, place: int, number: int, task_turns: int) -> Session:
    """Draws the `number`-th session at a place.

    Args:
        task_turns: turns from one task of a person's to the next.
    """
    draws = random.Random(f"{seed}/{place}/{number}")  # noqa: S311  (no secret)
    count = draws.randint(*background.turns)
    compacted_at = None
    if draws.random() < background.compacted:
        compacted_at = math.ceil(count * background.compacted_after)
    names = list(background.tools)
    weights = [background.tools[name].weight for name in names]
    turns = []
    for index in range(count):
        compacts = index == compacted_at
        tokens = _draw(draws, background.summary_tokens if compacts else background.turn_tokens)
        reply = _draw(draws, background.reply_tokens)
        (name,) = draws.choices(names, weights)
        tool_s = draws.lognormvariate(math.log(background.tools[name].median_s), background.tool_sigma)
        human_s = draws.lognormvariate(math.log(background.human_median_s), background.human_sigma)
        human = index % task_turns == task_turns - 1
        turns.append(Turn(tokens, reply, compacts, None if human else name, human_s if human else tool_s))
    workflow = draws.randrange(len(background.head_tokens))
    return Session(f"{seed}-{place}-{number}", workflow, _draw(draws, background.start_tokens), tuple(turns))


def _draw(draws: random.Random, bounds: TokenRange) -> int:
    low, high = bounds
    return round(math.exp(draws.uniform(math.log(low), math.log(high))))


class SessionPlayer:
    """Plays sessions at one place, one after the other, for ever.

    Attributes:
        context_tokens: length of the present session's context.
        workflow: of the present session.
    """

    def __init__(
        self, client: AsyncOpenAI, background: Background, seed: int, place: int, task_turns: int
    ) -> None:
        self.context_tokens = 0
        self.workflow = 0
        self._client = client
        self._background = background
        self._seed = seed
        self._place = place
        self._task_turns = task_turns

    async def play(self, begin: float, delay_s: float) -> None:
        """Plays until cancelled.

        Args:
            begin: how much of the first session is over, 0 to 1: its first call's prompt holds what was said.
            delay_s: until that call.
        """
        await asyncio.sleep(delay_s)
        for number in itertools.count():
            session = draw_session(self._background, self._seed, self._place, number, self._task_turns)
            await self._play(session, 0 if number else int(begin * len(session.turns)))

    async def _play(self, session: Session, first_turn: int) -> None:
        self.workflow = session.workflow
        head = {"role": "system", "content": _head(self._background, session.workflow)}
        messages = [head, _said("user", f"{session.name} task", session.start_tokens)]
        async with program("coding-agent", id=f"coding-agent-{session.name}") as run:
            for index, turn in enumerate(session.turns):
                tag = f"{session.name} turn {index}"
                if turn.compacts:
                    messages = [head]
                messages.append(_said("user", tag, turn.tokens))
                if index < first_turn:
                    messages.append(_said("assistant", tag, turn.reply_tokens))
                    continue
                with run.label(forecast=Forecast(next="tool" if turn.tool else "human")):
                    reply = await self._call(messages, turn.reply_tokens)
                messages.append({"role": "assistant", "content": reply})
                if turn.tool is None:
                    await asyncio.sleep(turn.pause_s)
                    continue
                with tool_call(turn.tool, expected=self._background.tools[turn.tool].median_s):
                    await asyncio.sleep(turn.pause_s)

    async def _call(self, messages: list[dict[str, str]], reply_tokens: int) -> str:
        # As coding agents do: streamed. The body goes past the SDK's own rewriting, which would be most of
        # the time that a call takes here.
        body: dict[str, Any] = {"messages": messages, "ignore_eos": True}
        stream = await self._client.chat.completions.create(
            model="demo",
            messages=[],
            max_tokens=reply_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=body,
        )
        parts: list[str] = []
        async for chunk in stream:
            if chunk.choices:
                parts.append(chunk.choices[0].delta.content or "")
            if chunk.usage is not None:
                self.context_tokens = chunk.usage.total_tokens
        return "".join(parts)


def _head(background: Background, workflow: int) -> str:
    return _text(f"workflow {workflow}", background.head_tokens[workflow])


def _said(role: str, tag: str, tokens: int) -> dict[str, str]:
    return {"role": role, "content": _text(tag, tokens)}


def _text(tag: str, tokens: int) -> str:
    return f"{tag}: {_FILLER[: tokens * 4]}"[: tokens * 4]
