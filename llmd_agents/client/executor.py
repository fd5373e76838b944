"""Threads that know which program and branch their work belongs to."""

from __future__ import annotations

import contextvars
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class ContextExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose work runs in a copy of the context that it was submitted in.

    So model calls made there belong to the submitter's program and branch. It also serves
    `loop.run_in_executor`, and as `loop.set_default_executor(ContextExecutor())` all such calls.
    """

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return super().submit(partial(contextvars.copy_context().run, fn, *args, **kwargs))
