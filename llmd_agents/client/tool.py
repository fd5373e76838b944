"""Tools: what a branch waits for between two model calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from llmd_agents.hints import Lifetime, ToolFinished, ToolStarted

from .clock import event_time
from .duration import seconds
from .frame import current_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from llmd_agents.hints import Outcome

P = ParamSpec("P")
R = TypeVar("R")


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    expected: float | str | timedelta | None = None,
    result_lifetime: str | float | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    expected: float | str | timedelta | None = None,
    result_lifetime: str | float | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a function or coroutine function as a tool; its calls inside a program are reported.

    Args:
        name: the function's own by default.
        expected: the typical duration, as seconds or as text such as "5s".
        result_lifetime: how long the result matters: "step", "branch", "program", "persistent" or seconds.

    Raises:
        ValueError: if `expected` or `result_lifetime` has no meaning.
    """
    duration = None if expected is None else seconds(expected)
    lifetime = Lifetime(result_lifetime) if isinstance(result_lifetime, str) else result_lifetime

    def decorate(inner: Callable[P, R]) -> Callable[P, R]:
        label = name or str(getattr(inner, "__name__", "tool"))

        if inspect.iscoroutinefunction(inner):

            @functools.wraps(inner)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with tool_call(label, expected=duration, result_lifetime=lifetime):
                    return await inner(*args, **kwargs)

            return cast("Callable[P, R]", call_async)

        @functools.wraps(inner)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with tool_call(label, expected=duration, result_lifetime=lifetime):
                return inner(*args, **kwargs)

        return call

    return decorate if function is None else decorate(function)


@contextmanager
def tool_call(
    name: str, *, expected: float | None = None, result_lifetime: Lifetime | float | None = None
) -> Iterator[None]:
    """Reports the block as one call of a tool, if it runs inside a program.

    Args:
        expected: the typical duration, in seconds.
    """
    inside = current_frame()
    if inside is None:
        yield
        return
    branch = inside.branch
    run = branch.run
    call = run.call_ids.next()
    run.outbox.put_new(
        lambda: ToolStarted(
            program=run.id,
            at=event_time(),
            branch=branch.id,
            call=call,
            tool=name[:128],
            expected=expected,
            result_lifetime=result_lifetime,
        )
    )
    outcome: Outcome = "error"
    try:
        yield
        outcome = "ok"
    except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        outcome = "cancelled"
        raise
    finally:
        run.outbox.put_new(
            lambda: ToolFinished(
                program=run.id,
                at=event_time(),
                branch=branch.id,
                call=call,
                tool=name[:128],
                outcome=outcome,
            )
        )
