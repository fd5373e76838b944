"""Reads and checks a chat-completions request."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from llmd_agents.hints import UnreadableContext, chain, residency_scope

from .blocks import cache_root
from .profile import EngineProfile
from .reply_text import ReplyText
from .tokenizer import Prompt, UnrenderablePrompt, render

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
        finish_reason: why the reply ends there: `stop` or `length`.
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


def read_completion(data: bytes, profile: EngineProfile, model_names: tuple[str, ...]) -> Completion:
    """Reads a request body.

    Args:
        data: the body.
        profile: whose limits apply.
        model_names: the models that are served; any if empty.

    Raises:
        RefusedRequest: if the engine cannot serve it.
    """
    body = _parse(data)
    model = _model(body, model_names)
    _check_messages(body)
    if body.get("n") not in (None, 1):
        raise RefusedRequest("n must be 1: the embedded engine gives one choice", param="n")
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise RefusedRequest("cache_salt must be a non-empty string", param="cache_salt")
    try:
        links = chain(body)
        prompt = render(body)
    except UnreadableContext as error:
        param = "tools" if str(error).startswith("tools") else "messages"
        raise RefusedRequest(str(error), param=param) from error
    except UnrenderablePrompt as error:
        raise RefusedRequest(str(error), param=error.param) from error
    except RecursionError as error:
        raise RefusedRequest("a message is nested too deeply", param="messages") from error
    reply = ReplyText.to(prompt.tokens)
    length, finish_reason = _length(body, len(prompt), reply.natural_length, profile)
    options = body.get("stream_options")
    return Completion(
        model=model,
        prompt=prompt,
        output=reply.tokens(length),
        finish_reason=finish_reason,
        root=cache_root(model, salt),
        boundaries=tuple((link.digest, end) for link, end in zip(links, prompt.ends, strict=True)),
        scope=residency_scope(salt),
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
    )


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
