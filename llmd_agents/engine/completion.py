"""Reads and checks a chat-completions request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from llmd_agents.hints import Link, UnreadableContext, chain, residency_scope

from .blocks import cache_root
from .profile import EngineProfile
from .reply_text import ReplyText
from .request import EngineRequest
from .said import Said, ToolCall, say
from .script import Script, reply_to
from .tokenizer import BYTES_PER_TOKEN, Prompt, UnrenderablePrompt, render

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"


class RefusedRequest(Exception):
    """The request is answered with an error; carries what the error says, in OpenAI's terms."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Completion:
    """A checked request.

    Attributes:
        model: as the response names it.
        prompt: rendered by the engine's tokenizer.
        output: the whole reply, four bytes per token.
        calls: the calls of tools that the reply consists of, if any.
        said_tokens: length of the reply if `max_tokens` had not cut it short.
        finish_reason: why the reply ends there: `stop`, `tool_calls` or `length`.
        root: for the core (`EngineRequest.root`).
        boundaries: for the core (`EngineRequest.boundaries`).
        scope: for the core (`EngineRequest.scope`).
    """

    model: str
    prompt: Prompt
    output: bytes
    finish_reason: str
    root: bytes
    boundaries: tuple[tuple[bytes, int], ...]
    scope: str | None
    stream: bool
    include_usage: bool
    calls: tuple[ToolCall, ...] = ()
    said_tokens: int = 0

    def request(self, request_id: str, *, of_branch: bool = False) -> EngineRequest:
        """Returns it as the core takes it.

        Args:
            of_branch: for the core (`EngineRequest.of_branch`).
        """
        return EngineRequest(
            id=request_id,
            prompt=self.prompt.tokens,
            output=self.output,
            root=self.root,
            boundaries=self.boundaries,
            scope=self.scope,
            of_branch=of_branch,
        )


def read_completion(
    data: bytes, profile: EngineProfile, model_names: tuple[str, ...], script: Script | None = None
) -> Completion:
    """Reads a request body.

    Args:
        data: the body.
        profile: whose limits apply.
        model_names: the models that are served; any if empty.
        script: what the reply is taken from.

    Raises:
        RefusedRequest: if the engine cannot serve it.
    """
    return check_completion(_parse(data), profile, model_names, script)


def check_completion(
    body: Mapping[str, Any],
    profile: EngineProfile,
    model_names: tuple[str, ...] = (),
    script: Script | None = None,
    links: Sequence[Link] | None = None,
) -> Completion:
    """As `read_completion`, for a body that has been parsed; `links` is its chain, if it is known already.

    Raises:
        RefusedRequest: if the engine cannot serve it.
    """
    model = _model(body, model_names)
    _check_messages(body)
    if body.get("n") not in (None, 1):
        raise RefusedRequest("n must be 1: the embedded engine gives one choice", param="n")
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise RefusedRequest("cache_salt must be a non-empty string", param="cache_salt")
    try:
        links = chain(body) if links is None else links
        prompt = render(body)
    except UnreadableContext as error:
        param = "tools" if str(error).startswith("tools") else "messages"
        raise RefusedRequest(str(error), param=param) from error
    except UnrenderablePrompt as error:
        raise RefusedRequest(str(error), param=error.param) from error
    except RecursionError as error:
        raise RefusedRequest("a message is nested too deeply", param="messages") from error
    said, length, finish_reason = _reply(body, prompt, script, profile)
    options = body.get("stream_options")
    return Completion(
        model=model,
        prompt=prompt,
        output=said.tokens[: length * BYTES_PER_TOKEN],
        finish_reason=finish_reason,
        root=cache_root(model, salt),
        boundaries=tuple((link.digest, end) for link, end in zip(links, prompt.ends, strict=True)),
        scope=residency_scope(salt),
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        calls=said.calls,
        said_tokens=len(said),
    )


def _reply(
    body: Mapping[str, Any], prompt: Prompt, script: Script | None, profile: EngineProfile
) -> tuple[Said, int, str]:
    """Returns the reply, how many tokens of it are given, and why it ends there."""
    words = ReplyText.to(prompt.tokens)
    scripted = reply_to(script, body) if script else None
    tools = bool(body.get("tools")) and body.get("tool_choice") != "none"
    natural = words.natural_length
    said = None
    if scripted is not None:
        said = say(words, scripted, scripted.tokens or natural, tools=tools)
        natural = len(said)
    length, finish_reason = _length(body, len(prompt), natural, profile)
    if said is None or length > natural:  # `ignore_eos` may ask for more than there is to say
        said = say(words, scripted, length, tools=tools)
    return said, length, "tool_calls" if finish_reason == "stop" and said.calls else finish_reason


def _parse(data: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            # The standard library also reads lone surrogates, which JSON may escape.
            body = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise RefusedRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedRequest("the body is not a JSON object")
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _model(body: Mapping[str, Any], model_names: tuple[str, ...]) -> str:
    model = body.get("model")
    if model is None:
        return model_names[0] if model_names else ""
    if not isinstance(model, str):
        raise RefusedRequest("model must be a string", param="model")
    if not model.isprintable():
        raise RefusedRequest("model must be printable text", param="model")
    if model_names and model not in model_names:
        raise RefusedRequest(
            f"The model `{model}` does not exist; served are {', '.join(model_names)}.",
            status=404,
            param="model",
            code="model_not_found",
        )
    return model


def _check_messages(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedRequest("messages must be a non-empty array", param="messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise RefusedRequest(f"{where} must be an object", param=where)
        if not isinstance(message.get("role"), str):
            raise RefusedRequest(f"{where}.role must be a string", param=f"{where}.role")
        if not isinstance(message.get("content"), str | list | None):
            raise RefusedRequest(
                f"{where}.content must be a string, an array or null", param=f"{where}.content"
            )


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise RefusedRequest(f"{name} must be a boolean", param=name)
    return bool(value)


def _asked_length(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RefusedRequest(f"{name} must be an integer of at least 1", param=name)
            return value
    return None


def _length(
    body: Mapping[str, Any], prompt_tokens: int, natural: int, profile: EngineProfile
) -> tuple[int, str]:
    asked = _asked_length(body)
    limit = min(profile.max_model_len, profile.cache_tokens)
    what = "context length" if limit == profile.max_model_len else "KV cache"
    if prompt_tokens + (asked or 1) > limit:
        wanted = f" and {asked} for the completion" if asked else ""
        raise RefusedRequest(
            f"This engine's {what} is {limit} tokens. However, you requested {prompt_tokens} tokens in the "
            f"messages{wanted}.",
            param="messages",
            code=CONTEXT_LENGTH_EXCEEDED,
        )
    most = asked or limit - prompt_tokens
    if _flag(body, "ignore_eos") or natural > most:
        return most, "length"
    return natural, "stop"
