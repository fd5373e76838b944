"""One call of a tool, as its client sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmd_agents.client import META_KEY, current_run, declare_tool, faults, tool_call

from .tool_hints import read_hints, steps_made

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from llmd_agents.client import HandOverBlock

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
        call.learn(getattr(result, "meta", None))
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
        self._call: AbstractContextManager[object] | None = None
        self._handed_over: HandOverBlock | None = None

    def __enter__(self) -> None:
        with faults("a call of a tool is not reported"):
            call = tool_call(self._tool)
            call.__enter__()
            self._call = call
        with faults("the program is not handed over"):
            run = current_run()
            if run is not None and (not self.meta or META_KEY not in self.meta):
                over = run.hand_over(self._tool)
                handed = over.__enter__()
                self._handed_over = over
                if handed.meta:
                    self.meta = {**(self.meta or {}), **handed.meta}

    def learn(self, meta: object) -> None:
        """Takes note of what the result says of the call, and of the tool."""
        with faults("what comes with a result is not read"):
            if self._handed_over is not None and steps_made(meta) is False:
                self._handed_over.withdraw()
        learn(self._tool, meta)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with faults("the program is not taken back"):
            if self._handed_over is not None:
                self._handed_over.__exit__(kind, error, trace)
        with faults("the end of a call of a tool is not reported"):
            if self._call is not None:
                self._call.__exit__(_Failed if self.failed else kind, error, trace)


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
