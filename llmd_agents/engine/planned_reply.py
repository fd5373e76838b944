"""What a request will be answered, how much of it, and why it ends there: decided before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .profile import EngineProfile
from .reply_text import ReplyText
from .request_body import CONTEXT_LENGTH_EXCEEDED, RefusedRequest, flag
from .said import RenderCalls, Said, calls_in_one_message, say
from .script import ScriptedReply
from .tokenizer import BYTES_PER_TOKEN, Prompt


@dataclass(frozen=True, slots=True)
class PlannedReply:
    """A reply that the core is given with its request.

    Attributes:
        said: all that there is to say.
        length: tokens of it that are given.
        finish_reason: `stop`, `tool_calls` or `length`.
    """

    said: Said
    length: int
    finish_reason: str

    @property
    def output(self) -> bytes:
        return self.said.tokens[: self.length * BYTES_PER_TOKEN]


def plan_reply(
    body: Mapping[str, Any],
    prompt: Prompt,
    profile: EngineProfile,
    *,
    where: str,
    asked: int | None,
    scripted: ScriptedReply | None = None,
    render_calls: RenderCalls = calls_in_one_message,
) -> PlannedReply:
    """Plans the reply to a prompt.

    Args:
        where: the body's member that holds the prompt, for errors.
        asked: most tokens of the reply; None for as many as there is room for.
        scripted: what it must say; None for words alone.
        render_calls: how the next prompt renders calls of tools.

    Raises:
        RefusedRequest: if prompt and reply exceed what the engine can hold.
    """
    words = ReplyText.to(prompt.tokens)
    tools = bool(body.get("tools")) and body.get("tool_choice") != "none"
    natural = words.natural_length
    said = None
    if scripted is not None:
        said = say(words, scripted, scripted.tokens or natural, tools=tools, render_calls=render_calls)
        natural = len(said)
    most = _most(len(prompt), asked, where, profile)
    cut = flag(body, "ignore_eos") or natural > most
    length = most if cut else natural
    if said is None or length > natural:  # `ignore_eos` may ask for more than there is to say
        said = say(words, scripted, length, tools=tools, render_calls=render_calls)
    reason = "length" if cut else "tool_calls" if said.calls else "stop"
    return PlannedReply(said, length, reason)


def _most(prompt_tokens: int, asked: int | None, where: str, profile: EngineProfile) -> int:
    limit = min(profile.max_model_len, profile.cache_tokens)
    what = "context length" if limit == profile.max_model_len else "KV cache"
    if prompt_tokens + (asked or 1) > limit:
        wanted = f" and {asked} for the completion" if asked else ""
        raise RefusedRequest(
            f"This engine's {what} is {limit} tokens. However, you requested {prompt_tokens} tokens in the "
            f"{where}{wanted}.",
            param=where,
            code=CONTEXT_LENGTH_EXCEEDED,
        )
    return asked or limit - prompt_tokens
