"""What the adapter does for itself inside a run must not be felt there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, SkipToolExecution

from llmd_agents.client import faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType


class Quietly:
    """Runs its block within another one. What goes wrong with that is logged, at debug level.

    Args:
        make: returns the other one, or None if there is none. Called when the block is entered.
    """

    __slots__ = ("_block", "_make")

    def __init__(self, make: Callable[[], AbstractContextManager[Any] | None]) -> None:
        self._make = make
        self._block: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        with faults("no hints for a part of a run"):
            block = self._make()
            if block is not None:
                block.__enter__()
            self._block = block

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._block is None:
            return
        if kind is not None and issubclass(kind, SkipToolExecution):
            kind = error = trace = None  # how a hook gives a tool's result in its place
        elif kind is not None and issubclass(kind, CallDeferred | ApprovalRequired):
            kind = asyncio.CancelledError  # not done here: it neither failed nor took that long
        with faults("the end of a part of a run is not noted"):
            self._block.__exit__(kind, error, trace)
