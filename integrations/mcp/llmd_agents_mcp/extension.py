"""For servers of the official SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp.server.extension import Extension
from mcp_types import CallToolResult, ListToolsResult

from llmd_agents.client import META_KEY, faults

from .declared import with_hints
from .served_call import ServedCall
from .tested import mcp_is_supported

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
    from mcp_types import CallToolRequestParams


class LlmdAgentsExtension(Extension):
    """Lets a server's tools belong to their caller's program, and tells clients what to expect of them.

        hints = LlmdAgentsExtension()
        server = MCPServer("search", extensions=[hints], middleware=[hints])

    As an extension it takes up the program that a call's `_meta` hands over, and says in each result what is
    known of the tool. As middleware it says the same in the list of tools.
    """

    identifier = META_KEY

    def __init__(self) -> None:
        self._supported = mcp_is_supported()

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if not self._supported:
            return await call_next(ctx)
        call = ServedCall(params, ctx.meta)
        async with call:
            result = await call_next(ctx)
            if isinstance(result, CallToolResult):
                call.failed = bool(result.is_error)
                call.succeeded = not call.failed
        with faults("a result is not described"):
            if isinstance(result, CallToolResult):
                return result.model_copy(update={"meta": call.described(result.meta)})
        return result

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Passes each message on; a list of tools gets what is known of them."""
        result = await call_next(ctx)
        if ctx.method != "tools/list" or not self._supported:
            return result
        with faults("tools are not described"):
            return _described(result)
        return result


def _described(listed: HandlerResult) -> HandlerResult:
    if isinstance(listed, ListToolsResult):
        tools = [tool.model_copy(update={"meta": with_hints(tool.meta, tool.name)}) for tool in listed.tools]
        return listed.model_copy(update={"tools": tools})
    if isinstance(listed, dict):  # as it goes on the wire
        return {**listed, "tools": [_described_on_wire(tool) for tool in listed["tools"]]}
    return listed


def _described_on_wire(tool: dict[str, Any]) -> dict[str, Any]:
    meta = with_hints(tool.get("_meta"), tool["name"])
    return tool if meta is None else {**tool, "_meta": meta}
