"""Headers that are added to a request, and taken back where it is sent on to another host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_ADDED = "llmd_agents.added"


class WithHeaders(Protocol):
    """What is used of a request of httpx or httpx2."""

    headers: MutableMapping[str, str]
    extensions: MutableMapping[str, Any]


def add_header(request: WithHeaders, name: str, value: str) -> None:
    """Sets a header."""
    request.extensions.setdefault(_ADDED, {})[name] = request.headers.get(name)
    request.headers[name] = value


def take_back_headers(request: WithHeaders) -> None:
    """Sets the headers that were added to what they were before."""
    for name, before in request.extensions.pop(_ADDED, {}).items():
        if before is None:
            request.headers.pop(name, None)
        else:
            request.headers[name] = before
