"""The one line for clients."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mcp import Client, ClientSession

from .sent_call import learn_all, sent
from .tested import fastmcp_is_supported, mcp_is_supported

if TYPE_CHECKING:
    from collections.abc import Callable

C = TypeVar("C")

_MARK: Final = "_llmd_agents_attached"
"""Attribute of the classes made here."""


def attach(client: C) -> C:
    """Lets the calls of tools that a client makes carry the program that they are made in.

    What the server says of its tools is learned, so that the next answer that asks for one foretells how long
    it takes. Doing it twice changes nothing.

    Args:
        client: of the official SDK (`Client` or `ClientSession`) or of FastMCP (`Client`), before or after
            it is connected. Its server gets to know the program's id, name, priority and deadline.

    Returns:
        the same client.

    Raises:
        TypeError: if it is something else.
    """
    attached = _attached_kind(client)
    if attached is not None and not getattr(client, _MARK, False):
        # Its class, rather than functions on the object: FastMCP's client makes copies of itself.
        client.__class__ = attached(type(client))
    return client


def _attached_kind(client: object) -> Callable[[Any], Any] | None:
    """Returns what makes the class to be attached to a client; None for versions that are not known."""
    if isinstance(client, Client | ClientSession):
        return _of_sdk if mcp_is_supported() else None
    fastmcp = sys.modules.get("fastmcp")
    if fastmcp is not None and isinstance(client, fastmcp.Client):
        return _of_fastmcp if fastmcp_is_supported() else None
    raise TypeError(f"a client or session of mcp or fastmcp is expected, not {type(client).__name__}")


@cache
def _of_sdk(kind: Any) -> Any:
    """Returns a subclass of `Client` or `ClientSession` with the methods that calls of tools go through."""

    class Attaching(kind):  # type: ignore[misc]
        async def call_tool(self, name: str, *arguments: Any, meta: Any = None, **options: Any) -> Any:
            inner = super().call_tool
            return await sent(name, meta, lambda whole: inner(name, *arguments, meta=whole, **options))

        async def list_tools(self, *arguments: Any, **options: Any) -> Any:
            listed = await super().list_tools(*arguments, **options)
            learn_all(listed)
            return listed

    return _named_as(kind, Attaching)


@cache
def _of_fastmcp(kind: Any) -> Any:
    """Returns a subclass of FastMCP's `Client` with the methods that calls of tools go through."""

    class Attaching(kind):  # type: ignore[misc]
        async def call_tool_mcp(
            self,
            name: str,
            arguments: dict[str, Any],
            progress_handler: Any = None,
            timeout: Any = None,  # noqa: ASYNC109  (FastMCP's own)
            meta: Any = None,
        ) -> Any:
            inner = super().call_tool_mcp
            return await sent(
                name, meta, lambda meta: inner(name, arguments, progress_handler, timeout, meta)
            )

        async def list_tools_mcp(self, **options: Any) -> Any:
            listed = await super().list_tools_mcp(**options)
            learn_all(listed)
            return listed

    return _named_as(kind, Attaching)


def _named_as(kind: Any, attached: Any) -> Any:
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(attached, name, getattr(kind, name))
    setattr(attached, _MARK, True)
    return attached
