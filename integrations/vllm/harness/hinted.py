"""Calls with hints, as the middleware hands them to an engine; directives, as a router sends them."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmd_agents.hints import Directive, Hints, chain, encode_directives, encode_hints
from llmd_agents_vllm.carried import fold
from llmd_agents_vllm.engine_call import METHOD

if TYPE_CHECKING:
    from .in_process import InProcessEngine

Messages = Sequence[Mapping[str, Any]]


def body_of(messages: Messages) -> dict[str, Any]:
    return {"model": "tiny", "messages": [dict(message) for message in messages]}


def carried(messages: Messages, hints: Hints | None = None) -> dict[str, Any]:
    """Returns the `kv_transfer_params` of a chat completion."""
    header = None if hints is None else encode_hints(hints).encode()
    params: dict[str, Any] = json.loads(fold(json.dumps(body_of(messages)).encode(), header))[
        "kv_transfer_params"
    ]
    return params


def digests(messages: Messages) -> list[bytes]:
    """Returns the chain of a chat completion, the head first."""
    return [link.digest for link in chain(body_of(messages))]


def tip(messages: Messages) -> bytes:
    return digests(messages)[-1]


def asked(engine: "InProcessEngine", what: str, argument: Any = None) -> Any:
    """Puts a question to the connector as the server's routes do; returns the answer."""
    answer = json.loads(getattr(engine.core, METHOD)(what, json.dumps(argument)))
    if "unavailable" in answer:
        raise RuntimeError(answer["unavailable"])
    return answer["answer"]


def directed(engine: "InProcessEngine", *directives: Directive) -> list[dict[str, Any]]:
    """Sends directives; returns an answer for each: {"outcome": …} or {"ahead": …}."""
    actions = [(f"a{index}", directive) for index, directive in enumerate(directives)]
    answers: list[dict[str, Any]] = asked(engine, "direct", encode_directives("m", actions).decode())
    return answers
