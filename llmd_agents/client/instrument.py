"""Prepares an HTTP client: every model call it makes carries hints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    import openai

    from llmd_agents.hints.dialects import Surroundings

C = TypeVar("C", bound="openai.OpenAI | openai.AsyncOpenAI")
H = TypeVar("H")


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
    # The library is loaded in an instant, all that a call needs by those who make calls.
    from .hooks import hook_into

    hook_into(http, chosen, surroundings, named)
    return http_client
