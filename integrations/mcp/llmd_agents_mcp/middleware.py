"""For servers of FastMCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmcp.server.middleware import Middleware
from fastmcp.tools.base import InputRequiredToolResult

from llmd_agents.client import faults

from .declared import with_hints
from .served_call import ServedCall
from .tested import fastmcp_is_supported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastmcp.server.middleware import CallNext, MiddlewareContext
    from fastmcp.tools.base import Tool, ToolResult
    from mcp_types import CallToolRequestParams, ListToolsRequest


class LlmdAgentsMiddleware(Middleware):
    """Lets a server's tools belong to their caller's program, and tells clients what to expect of them.

    server = FastMCP("search", middleware=[LlmdAgentsMiddleware()])
    """

    def __init__(self) -> None:
        self._supported = fastmcp_is_supported()

    async def on_call_tool(
        self,
        context: MiddlewareContext[CallToolRequestParams],
        call_next: CallNext[CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        if not self._supported:
            return await call_next(context)
        call = ServedCall(context.message, _meta_of(context))
        async with call:
            result = await call_next(context)
            if not isinstance(result, InputRequiredToolResult):
                call.failed = bool(result.is_error)
                call.succeeded = not call.failed
        with faults("a result is not described"):
            if not isinstance(result, InputRequiredToolResult):
                result.meta = call.described(result.meta)
        return result

    async def on_list_tools(
        self,
        context: MiddlewareContext[ListToolsRequest],
        call_next: CallNext[ListToolsRequest, Sequence[Tool]],
    ) -> Sequence[Tool]:
        tools = await call_next(context)
        if not self._supported:
            return tools
        with faults("tools are not described"):
            return [tool.model_copy(update={"meta": with_hints(tool.meta, tool.name)}) for tool in tools]
        return tools


def _meta_of(context: MiddlewareContext[CallToolRequestParams]) -> object:
    with faults("a request's _meta is not read"):
        inside = context.fastmcp_context
        request = None if inside is None else inside.request_context
        return None if request is None else request.meta
    return None
