"""The hooks of an HTTP client: what goes out with a model call, and what comes back.

They sit on the HTTP client below the SDK. They see each attempt of each call, survive `with_options`, and
work the same for httpx and httpx2 (openai 2 and 3), whose clients share no base class.
"""

from __future__ import annotations

import weakref
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from llmd_agents.hints import ACK_HEADER, HINTS_HEADER, UNDECLARED

from .added_headers import add_header, take_back_headers
from .frame import current_frame
from .guard import guard
from .implicit import ImplicitProgram
from .live_lint import lint
from .outcome import outcome_of
from .place import place_of
from .quiet import faults
from .sender import sender_for
from .steps import PendingStep, begin_step
from .watched_answer import watch

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from llmd_agents.hints import Outcome
    from llmd_agents.hints.dialects import Surroundings

    from .place import Place
    from .translator import Translator

_STEP = "llmd_agents.step"
"""Extension of a request: the step that it is. Redirected requests take it over."""


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
    """The hooks of one HTTP client. None of them ever raises: hints are advice."""

    def __init__(
        self,
        http: Any,
        dialects: tuple[str, ...],
        surroundings: Surroundings | None,
        hosts: frozenset[str] | None,
    ) -> None:
        self._ours: dict[str, Callable[..., Any]] = {
            "request": self.on_request_async if hasattr(http, "aclose") else self.on_request,
            "response": self.on_response_async if hasattr(http, "aclose") else self.on_response,
        }
        self._translator = _translator(dialects, surroundings) if dialects else None
        self._for_openai = partial(_translator, (*dialects, "openai"), surroundings)
        self._hosts = hosts
        self._implicit = ImplicitProgram(UNDECLARED)

    def join(self, http: Any) -> None:
        """Puts the hooks behind those that a client has, if they are not there."""
        with faults("a client's hooks were not set"):
            theirs, ours = http.event_hooks, self._ours
            if ours["request"] in theirs["request"] and ours["response"] in theirs["response"]:
                return
            with guard:
                for event, hook in ours.items():
                    if hook not in theirs[event]:
                        theirs[event].append(hook)

    def on_request(self, request: _Request) -> None:
        with faults("no hints for a call"):
            if self._hosts is not None and request.url.host not in self._hosts:
                take_back_headers(request)
                return
            place = place_of(request.url) if request.method == "POST" else None
            if place is not None:
                _forget_answered(request)
                if HINTS_HEADER not in request.headers:
                    self._add_hints(request, place)
            elif self._hosts is not None:
                _add_baggage(request)

    def _add_hints(self, request: _Request, place: Place) -> None:
        content = request.content
        pending = begin_step(content, place, current_frame(), self._implicit)
        request.extensions[_STEP] = pending
        if not place.openai:
            add_header(request, HINTS_HEADER, pending.header())
            pending.branch.run.outbox.add_sender(sender_for(place.events), request.headers)
        with faults("no dialect for a call"):
            translator = self._for_openai() if place.openai else self._translator
            if translator is not None:
                translator.add(request, pending, content)
        lint(pending, content)

    def on_response(self, response: _Response) -> None:
        with faults("a response was not observed"):
            pending = response.request.extensions.get(_STEP)
            if isinstance(pending, PendingStep):
                pending.on_answer(response.status_code, response.headers.get(ACK_HEADER))
                if response.status_code < 300:
                    watch(response, pending)

    def on_failure(self, request: Any, outcome: Outcome) -> None:
        with faults("a failure was not observed"):
            pending = request.extensions.get(_STEP)
            if isinstance(pending, PendingStep):
                pending.on_failure(outcome)

    async def on_request_async(self, request: _Request) -> None:
        self.on_request(request)

    async def on_response_async(self, response: _Response) -> None:
        self.on_response(response)


def _add_baggage(request: _Request) -> None:
    from .handover import BAGGAGE_KEY, current_baggage

    ours, theirs = current_baggage(), request.headers.get("baggage", "")
    if ours is not None and BAGGAGE_KEY not in theirs:
        add_header(request, "baggage", f"{theirs},{ours}" if theirs else ours)


def _forget_answered(request: _Request) -> None:
    """Lets a request object that is sent once more, after it was answered, be another step."""
    pending = request.extensions.get(_STEP)
    if isinstance(pending, PendingStep) and pending.answered:
        del request.extensions[_STEP]
        take_back_headers(request)


@lru_cache(maxsize=64)
def _translator(dialects: tuple[str, ...], surroundings: Surroundings | None) -> Translator:
    # Dialects are loaded by clients that speak one.
    from .translator import Translator

    return Translator(dialects, surroundings)


_hooked: weakref.WeakSet[Any] = weakref.WeakSet()


def hook_into(
    http: Any, dialects: tuple[str, ...], surroundings: Surroundings | None, hosts: frozenset[str] | None
) -> None:
    """Sets the hooks of a client of httpx or httpx2, once.

    Raises:
        ValueError: if there is no such dialect.
    """
    if http in _hooked and not dialects:
        return  # adapters ask for it before each call
    hooks = _Hooks(http, dialects, surroundings, hosts)
    with guard:
        if http in _hooked:
            return
        _hooked.add(http)
    hooks.join(http)
    http.send = (_watched_async if hasattr(http, "aclose") else _watched)(http, http.send, hooks)


# What raises instead of responding passes no hook; and the application may have set other hooks since.


def _watched(http: Any, send: Callable[..., Any], hooks: _Hooks) -> Callable[..., Any]:
    def watched(request: Any, *args: Any, **kwargs: Any) -> Any:
        hooks.join(http)
        try:
            return send(request, *args, **kwargs)
        except BaseException as error:
            hooks.on_failure(request, outcome_of(type(error)))
            raise

    return watched


def _watched_async(http: Any, send: Callable[..., Any], hooks: _Hooks) -> Callable[..., Any]:
    async def watched(request: Any, *args: Any, **kwargs: Any) -> Any:
        hooks.join(http)
        try:
            return await send(request, *args, **kwargs)
        except BaseException as error:
            hooks.on_failure(request, outcome_of(type(error)))
            raise

    return watched
