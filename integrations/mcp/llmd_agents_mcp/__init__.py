"""MCP clients and servers whose calls of tools belong to one program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .attach import attach
from .declared import tool_hints
from .extension import LlmdAgentsExtension

if TYPE_CHECKING:
    from .middleware import LlmdAgentsMiddleware

__all__ = ["LlmdAgentsExtension", "LlmdAgentsMiddleware", "attach", "tool_hints"]


def __getattr__(name: str) -> Any:
    if name != "LlmdAgentsMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .middleware import LlmdAgentsMiddleware
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "fastmcp":
            raise
        raise ImportError("fastmcp is missing: pip install llmd-agents-mcp[fastmcp]") from error
    return LlmdAgentsMiddleware
