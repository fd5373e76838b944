"""Whether the server answers at all, and what it says of itself."""

from __future__ import annotations

from typing import Any, Final

from .finding import Unusable
from .server import Reply, Server, printable

_TELLING_HEADERS: Final = (
    "server",
    "via",
    "x-llmd-engine",
    "x-session-token",
    "x-envoy-upstream-service-time",
    "x-gateway-destination-endpoint-served",
    "openai-version",
)
_REASONING_TOKENS: Final = 16
"""Models that think before they answer refuse a shorter answer."""


def find_models(server: Server, model: str | None) -> list[str]:
    """Sets the server's model, and returns what can be said of the list of models.

    A base URL without `/v1` is mended where the server is found there.

    Raises:
        Unusable: if nothing answers, the key is refused, or there is no model to call.
    """
    reply = server.ask("GET", "/models")
    if reply.status == 404 and not server.base.endswith("/v1"):
        given, server.base = server.base, server.base + "/v1"
        second = server.ask("GET", "/models")
        if second.ok or second.forbids:
            reply = second
        else:
            server.base = given
    if reply.status is None:
        raise Unusable(f"{server.base} does not answer: {reply.error}")
    if reply.forbids:
        raise Unusable(f"{server.base} refuses the key: {reply.message}")
    listed = _models(reply)
    if model is None and not listed:
        raise Unusable(f"{server.base}/models lists no model: name one with --model", usage=True)
    server.model = model or listed[0]
    if not listed:
        return [f"no list of models: {reply.message}" if not reply.ok else "an empty list of models"]
    others = f" of {len(listed)} listed" if len(listed) > 1 else ""
    owner = _owner(reply, server.model)
    return [f"model {printable(server.model)}{others}{f', owned by {owner}' if owner else ''}"]


def _models(reply: Reply) -> list[str]:
    data = reply.object.get("data") if reply.ok else None
    entries = data if isinstance(data, list) else []
    ids = [one.get("id") for one in entries if isinstance(one, dict)]
    return [name for name in ids if isinstance(name, str) and name]


def _owner(reply: Reply, model: str) -> str | None:
    entries: list[Any] = reply.object["data"]
    owners = [one.get("owned_by") for one in entries if isinstance(one, dict) and one.get("id") == model]
    return printable(owners[0]) if owners and isinstance(owners[0], str) else None


def first_call(server: Server) -> list[str]:
    """Makes a plain call, and returns what its answer says of who gave it.

    Raises:
        Unusable: if the server does not answer it.
    """
    reply = server.chat()
    if not reply.ok and "max_completion_tokens" in reply.message:
        server.limit = {"max_completion_tokens": _REASONING_TOKENS}
        reply = server.chat()
    if not reply.ok:
        raise Unusable(f"{server.base} refuses a plain call: {reply.message}")
    if not isinstance(reply.object.get("choices"), list):
        raise Unusable(f"{server.base} answers a chat completion with something else: {reply.message}")
    return [f"{name}: {printable(reply.headers[name])}" for name in _TELLING_HEADERS if name in reply.headers]
