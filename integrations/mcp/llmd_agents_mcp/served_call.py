"""One call of a tool, as its server sees it."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from llmd_agents.client import META_KEY, Continuation, faults, tool_took

from .declared import known_hints
from .tool_hints import STEPS, steps_made

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from mcp_types import CallToolRequestParams


class ServedCall:
    """Model calls made in the block belong to the program that the call's `_meta` hands over, if it does.

    Attributes:
        succeeded: to be set where the tool has given a result; only such calls tell how long it takes.
        failed: to be set where it has failed without an exception.

    Args:
        call: the request.
        meta: its `_meta`.
    """

    def __init__(self, call: CallToolRequestParams, meta: object) -> None:
        self.succeeded = False
        self.failed = False
        self._tool = call.name
        # The client answers what the tool has asked it: the call as a whole began earlier.
        self._resumed = call.request_state is not None or call.input_responses is not None
        self._meta = meta
        self._handed: str | None = None
        self._going_on: Continuation | None = None
        self._token: Token[ServedCall | None] | None = None
        self._began = monotonic()
        self._took = 0.0

    async def __aenter__(self) -> Self:
        with faults("the caller's program is not taken up"):
            self._handed = handed = handed_over(self._meta)
            outer = _serving.get()
            if handed is None:
                pass
            elif outer is not None and outer._handed == handed:
                self._going_on = outer._going_on
            else:
                going_on = Continuation(handed, name="mcp")
                await going_on.__aenter__()
                self._going_on = going_on
                self._token = _serving.set(self)
        self._began = monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._took = monotonic() - self._began
        with faults("the caller's program is not given back"):
            if self._token is not None and self._going_on is not None:
                _serving.reset(self._token)
                await self._going_on.__aexit__(ToolFailed if self.failed else kind, error, trace)
        with faults("a tool's duration is not learned"):
            if self.succeeded:
                tool_took(self._tool, self._took)

    def described(self, meta: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the result's `_meta` with what is known of the tool, how long this call took, and whether
        it made steps of the caller's program."""
        told: dict[str, Any] = {"duration_ms": round(self._took * 1000, 3)}
        told |= known_hints(self._tool).written()
        steps = self._steps(meta)
        if steps is not None:
            told[STEPS] = steps
        return {**meta, META_KEY: told} if meta else {META_KEY: told}

    def _steps(self, meta: object) -> bool | None:
        """Returns None where it is not known."""
        if self._going_on is None or self._resumed:
            return None
        if self._going_on.used:
            return True
        # A server that this one passes the call on to has made the result.
        passed_on = isinstance(meta, dict) and META_KEY in meta
        return steps_made(meta) if passed_on else False


_serving: ContextVar[ServedCall | None] = ContextVar("llmd_agents_mcp_serving", default=None)
"""The call that is being served: what is handed over with it is taken up once, however often it is seen."""


class ToolFailed(Exception):
    """What a tool's failure is to the program where the framework has made a result of its exception."""


def handed_over(meta: object) -> str | None:
    """Returns what a request's `_meta` hands over; nothing of what else it holds is looked at."""
    value = meta.get(META_KEY) if isinstance(meta, dict) else None
    return value if isinstance(value, str) else None
