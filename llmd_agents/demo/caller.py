"""Makes the calls of a replay, and counts what comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmd_agents.bench import ChatPrompt

    from .replay_report import ReplayReport


class Caller:
    """Sends prompts with one client. A call that fails is counted, and the replay goes on."""

    def __init__(self, client: openai.AsyncOpenAI, report: ReplayReport, on_call: Callable[[], None]) -> None:
        self._client = client
        self._report = report
        self._on_call = on_call

    async def call(self, model: str, prompt: ChatPrompt, output_tokens: int) -> None:
        report = self._report
        report.requests += 1
        # The messages go past the SDK's own rewriting, which would be most of the time that a call takes.
        body: dict[str, Any] = {"messages": prompt.messages, "ignore_eos": True, **prompt.extra_body}
        try:
            reply = await self._client.chat.completions.create(
                model=model, messages=[], max_tokens=max(output_tokens, 1), extra_body=body
            )
        except openai.OpenAIError as error:
            report.failed += 1
            report.first_error = report.first_error or str(error)
        else:
            usage = reply.usage
            if usage is not None:
                report.prompt_tokens += usage.prompt_tokens
                details = usage.prompt_tokens_details
                report.cached_tokens += (details.cached_tokens or 0) if details else 0
        self._on_call()
