"""One call of a tool, as its server sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from llmd_agents.client import META_KEY, continue_program, tool_took

from .declared import known_hints
from .faults import faults

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from llmd_agents.client import Run

_serving: ContextVar[str | None] = ContextVar("llmd_agents_mcp_serving", default=None)
"""What was handed over with the call that is being served: it is taken up once, however often it is seen."""


class ServedCall:
    """Model calls made in the block belong to the program that the call's `_meta` hands over, if it does.

    Attributes:
        succeeded: to be set where the tool has given a result; only such calls tell how long it takes.
        failed: to be set where it has failed without an exception.

    Args:
        tool: its name.
        meta: the request's `_meta`.
    """

    def __init__(self, tool: str, meta: object) -> None:
        self.succeeded = False
        self.failed = False
        self._tool = tool
        self._meta = meta
        self._run: Run | None = None
        self._token: Token[str | None] | None = None
        self._began = monotonic()
        self._took = 0.0

    async def __aenter__(self) -> Self:
        with faults("the caller's program is not taken up"):
            handed = handed_over(self._meta)
            if handed is not None and handed != _serving.get():
                run = continue_program({META_KEY: handed}, name="mcp")
                await run.__aenter__()
                self._run = run
                self._token = _serving.set(handed)
        self._began = monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._took = monotonic() - self._began
        if self._token is not None:
            _serving.reset(self._token)
        with faults("the caller's program is not given back"):
            if self._run is not None:
                await self._run.__aexit__(ToolFailed if self.failed else kind, error, trace)
        with faults("a tool's duration is not learned"):
            if self.succeeded:
                tool_took(self._tool, self._took)

    def described(self, meta: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the result's `_meta` with what is known of the tool, and how long this call took."""
        told = {"duration_ms": round(self._took * 1000, 3), **known_hints(self._tool).written()}
        return {**(meta or {}), META_KEY: told}


class ToolFailed(Exception):
    """What a tool's failure is to the program where the framework has made a result of its exception."""


def handed_over(meta: object) -> str | None:
    """Returns what a request's `_meta` hands over; nothing of what else it holds is looked at."""
    value = meta.get(META_KEY) if isinstance(meta, Mapping) else None
    return value if isinstance(value, str) else None
