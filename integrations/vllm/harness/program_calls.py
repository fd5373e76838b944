"""The calls that a program makes of the tiny model, and what became of each."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

MODEL = "tiny"


@dataclass(frozen=True)
class Call:
    """An answered call. Times are seconds of `time.monotonic`; `prompt` and `output` are token ids."""

    began: float
    ended: float
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    cached: int


@dataclass
class Caller:
    """Makes calls with replies of fixed length, since what the model says means nothing."""

    client: AsyncOpenAI
    calls: list[Call] = field(default_factory=list)

    async def ask(self, messages: Sequence[dict[str, Any]], reply_tokens: int, **more: Any) -> str:
        """Returns the reply.

        Raises:
            openai.OpenAIError: if the call fails.
        """
        body = {"messages": list(messages), "ignore_eos": True, "return_token_ids": True, **more}
        began = time.monotonic()
        # The body goes past the SDK's own rewriting, which would be most of the time that a call takes.
        answer = await self.client.chat.completions.create(
            model=MODEL, messages=[], max_tokens=reply_tokens, temperature=0, extra_body=body
        )
        said: Any = answer.choices[0]
        told: Any = answer
        details = answer.usage.prompt_tokens_details if answer.usage else None
        self.calls.append(
            Call(
                began,
                time.monotonic(),
                tuple(told.prompt_token_ids),
                tuple(said.token_ids),
                (details.cached_tokens or 0) if details else 0,
            )
        )
        return said.message.content or ""


def computed_again(calls: Sequence[Call], block_tokens: int = 32) -> int:
    """Returns how many prompt tokens were computed though they had been before, for an earlier call of these.

    In whole blocks, and without the last token of a prompt, which is always computed. Earlier is what had
    been answered when the call was sent.
    """
    computed_at: dict[int, float] = {}
    for call in calls:
        for key in _blocks((*call.prompt, *call.output[:-1]), block_tokens):
            computed_at[key] = min(call.ended, computed_at.get(key, call.ended))
    again = 0
    for call in calls:
        known = 0
        for key in _blocks(call.prompt[:-1], block_tokens):
            if computed_at[key] > call.began:
                break
            known += block_tokens
        again += max(known - call.cached, 0)
    return again


def _blocks(tokens: Sequence[int], size: int) -> Iterator[int]:
    """Yields a key for each full block, which stands for all that precedes it too."""
    key = 0
    for start in range(0, len(tokens) - size + 1, size):
        key = hash((key, *tokens[start : start + size]))
        yield key
