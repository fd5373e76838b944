"""Middleware for agents made with `create_agent`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.runnables.config import var_child_runnable_config

from llmd_agents.client import begin_scope, current_run, current_scope, faults, tool_call

from .marks import agent_of
from .runs import RUNS, agent_name
from .tested import all_tested

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from langchain.agents.middleware.types import ModelRequest, ModelResponse
    from langchain_core.messages import ToolMessage
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command


class LlmdAgentsMiddleware(AgentMiddleware[Any, Any, Any]):
    """Gives an agent's model calls its name, and reports its calls of tools, by the ids that the model gave.

        create_agent(model, tools, middleware=[LlmdAgentsMiddleware("researcher")])

    Where the handler is attached too, nothing counts twice.

    Args:
        agent: its name; by default the one that `create_agent` was given.
    """

    def __init__(self, agent: str | None = None) -> None:
        super().__init__()
        self.agent = agent
        self._tested = all_tested()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        with _Quiet(self._name_call):
            return handler(request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        with _Quiet(self._name_call):
            return await handler(request)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        with _Quiet(lambda block: self._report_call(block, request)):
            return handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        with _Quiet(lambda block: self._report_call(block, request)):
            return await handler(request)

    def _name_call(self, block: ExitStack) -> None:
        if not self._tested:
            return
        config = var_child_runnable_config.get()
        metadata = (config and config.get("metadata")) or {}
        name = self.agent or agent_of(metadata)
        token = agent_name.set(name)
        block.callback(agent_name.reset, token)
        if RUNS.knows(current_scope()):
            return  # the handler opens the call's scope, and finds the name
        thread = metadata.get("thread_id")
        if thread is not None or current_run() is not None:
            thread = None if thread is None else str(thread)
            block.enter_context(begin_scope(name or "agent", agent=name, thread=thread))

    def _report_call(self, block: ExitStack, request: ToolCallRequest) -> None:
        if self._tested:
            call = request.tool_call
            block.enter_context(tool_call(call["name"], call_id=call["id"]))


class _Quiet:
    """A block that is made by a function which may fail."""

    def __init__(self, make: Callable[[ExitStack], None]) -> None:
        self._make = make
        self._block = ExitStack()

    def __enter__(self) -> None:
        with faults("an agent's call gives no hints"):
            self._make(self._block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with faults("the end of an agent's call gives no hints"):
            self._block.__exit__(kind, error, trace)
