"""One call of a tool, as its client sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmd_agents.client import META_KEY, current_run, declare_tool, tool_call

from .faults import faults
from .tool_hints import read_hints

if TYPE_CHECKING:
    from types import TracebackType

TOOLS_MAX: Final = 1024
"""Of a longer list, the rest is not looked at."""


async def sent(tool: str, meta: Mapping[str, Any] | None, send: Callable[[Any], Awaitable[Any]]) -> Any:
    """Sends a call, hands over the program that it is made in, and learns from its result.

    Args:
        tool: its name.
        meta: the request's `_meta` as the application gives it.
        send: sends the call with a `_meta`.
    """
    call = SentCall(tool, meta)
    with call:
        result = await send(call.meta)
        call.failed = getattr(result, "is_error", False) is True
    learn(tool, getattr(result, "meta", None))
    return result


class SentCall:
    """The block is one call of a tool; what follows it depends on the model calls that the tool makes.

    Attributes:
        meta: to be sent.
        failed: to be set where the tool has failed without an exception.
    """

    def __init__(self, tool: str, meta: Mapping[str, Any] | None) -> None:
        self.meta = meta
        self.failed = False
        self._tool = tool
        self._entered: list[Any] = []

    def __enter__(self) -> None:
        with faults("a call of a tool is not reported"):
            self._enter(tool_call(self._tool))
        with faults("the program is not handed over"):
            run = current_run()
            if run is not None and META_KEY not in (self.meta or {}):
                handed = self._enter(run.hand_over(self._tool))
                if handed.meta:
                    self.meta = {**(self.meta or {}), **handed.meta}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._entered:
            with faults("the end of a call of a tool is not reported"):
                self._entered.pop().__exit__(_Failed if self.failed else kind, error, trace)

    def _enter(self, block: Any) -> Any:
        value = block.__enter__()
        self._entered.append(block)
        return value


class _Failed(Exception):
    """What a result is to the program that says that the tool has failed."""


def learn(tool: str, meta: object) -> None:
    """Takes note of what a server says of a tool, as far as it makes sense."""
    with faults("what a server says of a tool is not learned"):
        hints = read_hints(meta)
        if hints.expected is not None or hints.result_lifetime is not None:
            declare_tool(
                tool,
                expected=hints.expected,
                sigma=hints.sigma,
                result_lifetime=hints.result_lifetime,
                told=True,
            )


def learn_all(listed: Any) -> None:
    """Takes note of what a server says of the tools that it lists."""
    with faults("what a server says of its tools is not learned"):
        for tool in listed.tools[:TOOLS_MAX]:
            learn(tool.name, tool.meta)
