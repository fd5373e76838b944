"""One call of a tool as a block: reported where a program is, and learned from anywhere."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Self

from . import quiet
from .clock import monotonic
from .declared_tools import DeclaredTool, Duration, declaration, declare, declared_tool, undeclared_tool
from .durations import tool_durations
from .frame import current_frame
from .outcome import outcome_of
from .tool_name import call_key

if TYPE_CHECKING:
    from types import TracebackType

    from .open_call import OpenCall


class ToolCall:
    """What `tool_call` returns; each is entered once. Nothing that goes wrong in it can be felt in the block.

    Args:
        call_id: which of the calls that the model asked for this is, where that is known.
        takes_in: whether a function of the same name, marked with `tool`, that it runs is this very call.
        apart: whether what observers make current for the tool stays out of the caller's context, as it must
            where the block is left in another context than it was entered in.
    """

    __slots__ = ("_apart", "_began", "_call_id", "_context", "_open", "_outer", "_takes_in", "_tool")

    def __init__(
        self,
        tool: DeclaredTool,
        call_id: str | None = None,
        *,
        takes_in: bool = False,
        apart: bool = False,
    ) -> None:
        self._tool = tool
        self._takes_in = takes_in
        self._outer: ToolCall | None = None
        self._call_id = call_key(call_id) if call_id else None
        self._apart = apart
        self._began: float | None = None
        self._open: OpenCall | None = None
        self._context: contextvars.Context | None = None

    def __enter__(self) -> Self:
        with quiet.faults("a call of a tool is not reported"):
            self._outer = _running.get()
            if self._outer is not None and self._outer._takes(self):
                return self
            if self._takes_in:
                _running.set(self)
            self._began = monotonic()
            inside = current_frame()
            if inside is not None:
                self._open = inside.branch.begin_call(self._tool, self._call_id)
                if self._apart:
                    self._context = contextvars.copy_context()
                    self._context.run(self._open.run_here)
                else:
                    self._open.run_here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with quiet.faults("the end of a call of a tool is not reported"):
            outcome = outcome_of(kind)
            if _running.get() is self:
                _running.set(self._outer)
            self._takes_in, self._outer = False, None
            call, self._open = self._open, None
            try:
                if outcome != "cancelled" and self._began is not None:
                    tool_durations().observe(self._tool.name, monotonic() - self._began)
            finally:
                if call is not None and self._context is not None:
                    self._context.run(call.leave, outcome)
                elif call is not None:
                    call.leave(outcome)

    def _takes(self, inner: ToolCall) -> bool:
        if not self._takes_in or inner._tool.name != self._tool.name:
            return False
        if None not in (inner._call_id, self._call_id) and inner._call_id != self._call_id:
            return False
        self._takes_in = inner._takes_in  # a function takes the call; a block around it passes it on
        return True


def tool_call(
    name: str,
    *,
    expected: Duration | None = None,
    sigma: float | None = None,
    result_lifetime: Duration | None = None,
    call_id: str | None = None,
) -> ToolCall:
    """Reports the block as one call of a tool, if it runs inside a program, and learns how long it takes.

    Where the block runs a function of the same name that is marked with `tool`, that is one call, not two.

        with tool_call(call.function.name, call_id=call.id):
            result = dispatch(call)

    Args:
        name: the tool's, as models call it.
        expected: see `tool`; by default what is declared of that name.
        sigma: see `tool`.
        result_lifetime: see `tool`.
        call_id: the id that the model gave the call; without it, the oldest open call of that name is meant.

    Raises:
        ValueError: naming the argument that has no meaning.
    """
    if expected is None and sigma is None and result_lifetime is None:
        tool = declared_tool(name) or undeclared_tool(name)
    else:
        tool = declaration(name, expected, sigma, result_lifetime)
        declare(tool)
    return ToolCall(tool, call_id, takes_in=True)


_running: contextvars.ContextVar[ToolCall | None] = contextvars.ContextVar("llmd_agents_tool", default=None)
