"""Prepares an OpenAI client: every chat completion it makes carries hints.

The hooks sit on the HTTP client below the SDK. They see each attempt of each call, survive `with_options`,
and work the same for openai 2 (httpx) and openai 3 (httpx2), whose clients share no base class.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmd_agents.hints import ACK_HEADER, EVENTS_PATH, HINTS_HEADER

from .frame import current_frame
from .implicit import ImplicitProgram
from .sender import sender_for
from .steps import PendingStep, begin_step

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    import openai

log = logging.getLogger("llmd_agents.client")

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")

_PATH = "/chat/completions"
_EXTENSION = "llmd_agents.step"


class _Request(Protocol):
    """What httpx and httpx2 requests have in common, as far as it is used here."""

    method: str
    url: Any
    headers: MutableMapping[str, str]
    extensions: MutableMapping[str, Any]

    @property
    def content(self) -> bytes: ...


class _Response(Protocol):
    status_code: int
    headers: MutableMapping[str, str]

    @property
    def request(self) -> _Request: ...


class _Hooks:
    """The two hooks of one HTTP client. Neither ever raises: hints are advice."""

    def __init__(self) -> None:
        self._implicit = ImplicitProgram("undeclared")

    def on_request(self, request: _Request) -> None:
        try:
            path = request.url.path
            if request.method != "POST" or not path.endswith(_PATH) or HINTS_HEADER in request.headers:
                return
            base = str(request.url.copy_with(path=path.removesuffix(_PATH), query=None)).rstrip("/")
            pending = begin_step(request.content, base, current_frame(), self._implicit.frame)
            request.headers[HINTS_HEADER] = pending.header
            request.extensions[_EXTENSION] = pending
            pending.frame.branch.run.outbox.add_sender(
                sender_for(base + EVENTS_PATH.removeprefix("/v1")), request.headers.get("authorization")
            )
        except Exception as error:  # noqa: BLE001  (whatever goes wrong here, the call itself must go out)
            log.debug("no hints for this call: %r", error)

    def on_response(self, response: _Response) -> None:
        try:
            pending = response.request.extensions.get(_EXTENSION)
            if not isinstance(pending, PendingStep) or response.status_code >= 400:
                return
            pending.on_answer(response.headers.get(ACK_HEADER))
            self._implicit.answered(pending.frame.branch, pending.links)
        except Exception as error:  # noqa: BLE001  (as above)
            log.debug("response not observed: %r", error)

    async def on_request_async(self, request: _Request) -> None:
        self.on_request(request)

    async def on_response_async(self, response: _Response) -> None:
        self.on_response(response)


_instrumented: weakref.WeakSet[Any] = weakref.WeakSet()


def instrument(client: C) -> C:
    """Makes a client send hints; returns the same client. Doing it twice changes nothing.

    Inside `with program(…)` its chat completions are that program's steps; outside they form a program of
    their own, with a branch for each chain of messages that extends itself. A call that sets the hint header
    itself is left alone.

    Raises:
        TypeError: if `client` is not an `openai.OpenAI` or `openai.AsyncOpenAI` (or a subclass).
    """
    http: Any = getattr(client, "_client", None)
    if http is None or not hasattr(http, "event_hooks"):
        raise TypeError(f"expected an openai.OpenAI or openai.AsyncOpenAI, not {type(client).__name__}")
    if http in _instrumented:
        return client
    hooks = _Hooks()
    registered: dict[str, list[Callable[..., Any]]] = http.event_hooks
    if hasattr(http, "aclose"):
        registered["request"].append(hooks.on_request_async)
        registered["response"].append(hooks.on_response_async)
    else:
        registered["request"].append(hooks.on_request)
        registered["response"].append(hooks.on_response)
    http.event_hooks = registered
    _instrumented.add(http)
    return client
