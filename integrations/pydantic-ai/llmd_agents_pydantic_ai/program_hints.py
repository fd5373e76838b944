"""The capability that tells servers how an agent's model calls belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering

from llmd_agents.client import begin_scope, current_scope, faults, is_supported, tool_call

from .conversation import thread_of
from .model_clients import instrument_model
from .quietly import Quietly

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic_ai import RunContext, ToolDefinition
    from pydantic_ai.capabilities import (
        ValidatedToolArgs,
        WrapOutputProcessHandler,
        WrapRunHandler,
        WrapToolExecuteHandler,
    )
    from pydantic_ai.messages import ToolCallPart
    from pydantic_ai.models import Model
    from pydantic_ai.output import OutputContext
    from pydantic_ai.run import AgentRunResult

    from llmd_agents.client import Scope

VERSIONS = ">=2.68,<3"


@dataclass
class ProgramHints(AbstractCapability[Any]):
    """Lets an agent's model calls carry hints, with the structure that its runs, tools and delegates have.

        agent = Agent("openai:gpt-5", capabilities=[ProgramHints()])

    A run is a program, or a part of the one around it: of `with program(…)`, of another agent's tool, of a
    graph. Nothing it does can fail a run or change what is sent besides headers.
    """

    id: str | None = "llmd-agents"
    """An agent has one capability of an id, so that this one, given twice, counts once."""

    _on: bool = field(default=False, repr=False)

    # Written out, for what it would inherit (to be loaded later, say) has no meaning here.
    def __init__(self, *, id: str | None = "llmd-agents") -> None:  # noqa: A002  (the framework's name for it)
        self.id = id
        self._on = is_supported("pydantic-ai-slim", VERSIONS, adapter="llmd-agents-pydantic-ai")

    def get_ordering(self) -> CapabilityOrdering:
        # What other capabilities do around a run or tool, such as asking a model, is part of it.
        return CapabilityOrdering(position="outermost")

    def get_wrapper_model(self, model: Model) -> None:
        if self._on:
            with faults("a model's client is not instrumented"):
                instrument_model(model)

    async def wrap_run(self, ctx: RunContext[Any], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        if not self._on or ctx.realtime:
            return await handler()
        with Quietly(lambda: _begin_run(ctx)):
            return await handler()

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        if not self._on:
            return await handler(args)
        with Quietly(lambda: _Tool(call)):
            return await handler(args)

    async def wrap_output_process(
        self,
        ctx: RunContext[Any],
        *,
        output_context: OutputContext,
        output: Any,
        handler: WrapOutputProcessHandler,
    ) -> Any:
        call = output_context.tool_call
        if not self._on or call is None or ctx.partial_output:
            return await handler(output)
        with Quietly(lambda: _Tool(call)):
            return await handler(output)


def _begin_run(ctx: RunContext[Any]) -> Scope:
    name = (ctx.agent.name if ctx.agent is not None else None) or "agent"
    return begin_scope(name, agent=name, thread=thread_of(ctx))


class _Tool:
    """The block of a call of a tool, in a scope of its own: other agents may run in it."""

    __slots__ = ("_call", "_scope")

    def __init__(self, call: ToolCallPart) -> None:
        self._call = tool_call(call.tool_name, call_id=call.tool_call_id)
        around = current_scope()
        self._scope = around.open() if around is not None else None

    def __enter__(self) -> None:
        if self._scope is not None:
            self._scope.enter()
        self._call.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call.__exit__(kind, error, trace)
        finally:
            if self._scope is not None:
                self._scope.__exit__(kind, error, trace)
