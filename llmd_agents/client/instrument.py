"""Prepares an HTTP client: every model call it makes carries hints.

The hooks sit on the HTTP client below the SDK. They see each attempt of each call, survive `with_options`,
and work the same for httpx and httpx2 (openai 2 and 3), whose clients share no base class.
"""

from __future__ import annotations

import weakref
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

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
    from collections.abc import Callable, Iterable, MutableMapping

    import openai

    from llmd_agents.hints import Outcome
    from llmd_agents.hints.dialects import Surroundings

    from .place import Place
    from .translator import Translator

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")
H = TypeVar("H")

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
            pending.branch.run.outbox.add_sender(
                sender_for(place.events), request.headers.get("authorization")
            )
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


_attached: weakref.WeakSet[Any] = weakref.WeakSet()


def instrument(client: C, *, dialects: Iterable[str] = (), surroundings: Surroundings | None = None) -> C:
    """Makes a client send hints; returns the same client. Doing it twice changes nothing.

    Inside `with program(…)` its completions, chat completions and responses are that program's steps; outside
    they form a program of their own, with a branch for each chain of context that extends itself. A call that
    sets the hint header itself is left alone.

    What goes to OpenAI's own servers has no hint header but a `prompt_cache_key`, unless the call sets one.

    Args:
        dialects: other stacks whose words are sent as well: `llm_d`, `vllm`, `sglang`, `dynamo`, `openai`,
            `anthropic`. Some add members to the body.
        surroundings: what some dialects want to know of the servers.

    Raises:
        TypeError: if `client` is not an `openai.OpenAI` or `openai.AsyncOpenAI` (or a subclass).
        ValueError: if there is no such dialect.
    """
    http: Any = getattr(client, "_client", None)
    if http is None or not hasattr(http, "event_hooks"):
        raise TypeError(f"expected an openai.OpenAI or openai.AsyncOpenAI, not {type(client).__name__}")
    attach(http, dialects=dialects, surroundings=surroundings)
    return client


def attach(
    http_client: H,
    *,
    dialects: Iterable[str] = (),
    surroundings: Surroundings | None = None,
    hosts: Iterable[str] | None = None,
) -> H:
    """Makes an HTTP client send hints with every model call; returns the same client.

    For frameworks that take an `http_client`: httpx and httpx2, sync and async.

        ChatOpenAI(http_client=attach(httpx.Client()), http_async_client=attach(httpx.AsyncClient()))

    Args:
        dialects: as for `instrument`.
        surroundings: as for `instrument`.
        hosts: names of the only hosts that hints may go to; any host by default. Other requests to the hosts
            that are named carry the program's id, and nothing else of it, in W3C baggage.

    Raises:
        TypeError: if it is no such client.
        ValueError: if there is no such dialect.
    """
    http: Any = http_client
    if not hasattr(http, "event_hooks") or not hasattr(http, "send"):
        raise TypeError(f"expected a client of httpx or httpx2, not {type(http_client).__name__}")
    if isinstance(hosts, str):
        hosts = (hosts,)
    chosen = (dialects,) if isinstance(dialects, str) else tuple(dialects)
    named = None if hosts is None else frozenset(host.lower() for host in hosts)
    hooks = _Hooks(http, chosen, surroundings, named)
    with guard:
        if http in _attached:
            return http_client
        _attached.add(http)
    hooks.join(http)
    http.send = (_watched_async if hasattr(http, "aclose") else _watched)(http, http.send, hooks)
    return http_client


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
