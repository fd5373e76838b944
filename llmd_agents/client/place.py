"""Where a request goes: which route of which server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmd_agents.hints import EVENTS_PATH
from llmd_agents.hints.providers import is_openai

from .recent import Recent

if TYPE_CHECKING:
    from .history import Route

_ROUTES: tuple[Route, ...] = ("chat/completions", "completions", "responses")
"""The longer path that ends like another comes first."""


@dataclass(frozen=True, slots=True)
class Place:
    """A route of an OpenAI-compatible API.

    Attributes:
        server: the API's base URL.
        events: where its lifecycle events are posted.
        openai: whether it is OpenAI's own.
    """

    route: Route
    server: str
    events: str
    openai: bool


_places: Recent[str, tuple[Place | None]] = Recent(1024)


def place_of(url: Any) -> Place | None:
    """Returns the place that a URL (of httpx or httpx2) names; None if no step is made there."""
    # Taking a URL apart and putting it together costs more than all else that is done for a short call.
    key = str(url)
    known = _places.get(key)
    if known is None:
        known = (_place(url),)
        _places.put(key, known)
    return known[0]


def _place(url: Any) -> Place | None:
    path: str = url.path
    for route in _ROUTES:
        if path.endswith(f"/{route}"):
            # Without what may be secret in it: who calls, with which password or key.
            base = str(url.copy_with(path=path.removesuffix(f"/{route}"), query=None, userinfo=b""))
            base = base.rstrip("/")
            return Place(route, base, base + EVENTS_PATH.removeprefix("/v1"), is_openai(base))
    return None
