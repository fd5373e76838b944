"""A checked request, and how one is read from the body of a chat completion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmd_agents.hints import Link, UnreadableContext, chain, residency_scope

from .blocks import cache_root
from .planned_reply import PlannedReply, plan_reply
from .profile import EngineProfile
from .request import EngineRequest
from .request_body import RefusedRequest, flag, length_of, model_of, not_modelled, parse, salt_of
from .said import ToolCall
from .script import Script, reply_to
from .tokenizer import Prompt, UnrenderablePrompt, render


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

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        model: str,
        salt: str | None,
        prompt: Prompt,
        links: Sequence[Link],
        reply: PlannedReply,
    ) -> "Completion":
        """Puts together what was read of a body; `prompt.ends` are the ends of `links`."""
        options = body.get("stream_options")
        return cls(
            model=model,
            prompt=prompt,
            output=reply.output,
            finish_reason=reply.finish_reason,
            root=cache_root(model, salt),
            boundaries=tuple((link.digest, end) for link, end in zip(links, prompt.ends, strict=True)),
            scope=residency_scope(salt),
            stream=flag(body, "stream"),
            include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
            calls=reply.said.calls,
            said_tokens=len(reply.said),
        )

    def request(
        self, request_id: str, *, of_branch: bool = False, reply: bytes | None = None
    ) -> EngineRequest:
        """Returns it as the core takes it.

        Args:
            of_branch: for the core (`EngineRequest.of_branch`).
            reply: for the core (`EngineRequest.reply`).
        """
        return EngineRequest(
            id=request_id,
            prompt=self.prompt.tokens,
            output=self.output,
            root=self.root,
            boundaries=self.boundaries,
            scope=self.scope,
            of_branch=of_branch,
            reply=reply,
        )


def read_completion(
    data: bytes, profile: EngineProfile, model_names: tuple[str, ...], script: Script | None = None
) -> Completion:
    """Reads the body of a chat completion.

    Args:
        data: the body.
        profile: whose limits apply.
        model_names: the models that are served; any if empty.
        script: what the reply is taken from.

    Raises:
        RefusedRequest: if the engine cannot serve it.
    """
    return check_completion(parse(data), profile, model_names, script)


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
    model = model_of(body, model_names)
    _check_messages(body)
    not_modelled(body, n=1)
    salt = salt_of(body)
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
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    reply = plan_reply(
        body,
        prompt,
        profile,
        where="messages",
        asked=length_of(body, "max_completion_tokens", "max_tokens"),
        scripted=reply_to(script, turn) if script else None,
    )
    return Completion.of(body, model, salt, prompt, links, reply)


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
