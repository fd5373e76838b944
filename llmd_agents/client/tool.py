"""`@tool`: marks what a branch waits for between two model calls."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from .declared_tools import DeclaredTool, declaration, declare
from .tool_call import ToolCall
from .tool_name import tool_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from .declared_tools import Duration

P = ParamSpec("P")
R = TypeVar("R")


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    expected: Duration | None = None,
    sigma: float | None = None,
    result_lifetime: Duration | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    expected: Duration | None = None,
    sigma: float | None = None,
    result_lifetime: Duration | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a function as a tool: its calls inside a program are reported, and their durations learned.

        @tool(expected="5s", result_lifetime="step")
        async def search(query: str) -> str: ...

    It takes functions, coroutine functions, generators and async generators, methods of all kinds (above or
    below `@staticmethod` and `@classmethod`), partials and callable objects. It returns a function of the
    same kind, signature and documentation. A generator's call lasts from its first item to its end.

    Args:
        name: what models call it; the function's own name by default.
        expected: the typical (median) duration: seconds, a timedelta or text such as "5s". Without: learned.
        sigma: how unsure `expected` is: the standard deviation of ln(seconds). 0.7 is twice or half as long.
        result_lifetime: how long the result matters: "step", "branch", "program", "persistent" or a duration.

    Raises:
        ValueError: naming the argument that has no meaning.
        TypeError: where what is marked cannot be called, or is a class.
    """
    given = declaration("unnamed" if name is None else name, expected, sigma, result_lifetime)

    def decorate(inner: Callable[P, R]) -> Callable[P, R]:
        if isinstance(inner, staticmethod | classmethod):
            wrapped: Any = decorate(inner.__func__)
            return cast("Callable[P, R]", type(inner)(wrapped))
        if isinstance(inner, type) or not callable(inner):
            raise TypeError(f"a tool is a function or a callable object, not {inner!r:.80}")
        label = given.name if name is not None else _name_of(inner)
        declared = DeclaredTool(label, given.expected, given.sigma, given.result_lifetime)
        declare(declared)
        return _described(_reported(inner, declared), inner)

    return decorate if function is None else decorate(function)


def _source(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that a partial or a callable object runs in the end."""
    while isinstance(inner, functools.partial):
        inner = inner.func
    return inner if inspect.isroutine(inner) else cast("Any", type(inner)).__call__


def _name_of(inner: Callable[..., Any]) -> str:
    while isinstance(inner, functools.partial):
        inner = inner.func
    return tool_name(str(getattr(inner, "__name__", type(inner).__name__)))


def _reported(inner: Callable[P, R], declared: DeclaredTool) -> Callable[P, R]:
    """Returns a function that is called as `inner` is, of the same kind."""
    kind = _source(inner)
    if inspect.iscoroutinefunction(kind):

        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with ToolCall(declared):
                return await cast("Any", inner(*args, **kwargs))

        return cast("Callable[P, R]", call_async)
    if inspect.iscoroutinefunction(inspect.unwrap(kind)):
        return _awaited_later(inner, declared)
    if inspect.isasyncgenfunction(kind):

        async def call_async_generator(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            with ToolCall(declared, apart=True):
                generator = cast("AsyncGenerator[Any, Any]", inner(*args, **kwargs))
                try:
                    value = await _first(generator)
                    while True:
                        try:
                            sent = yield value
                        except GeneratorExit:
                            await generator.aclose()
                            raise
                        except BaseException as error:  # noqa: BLE001  (it is the generator's to handle)
                            value = await generator.athrow(error)
                        else:
                            value = await generator.asend(sent)
                except StopAsyncIteration:
                    return

        return cast("Callable[P, R]", call_async_generator)
    if inspect.isgeneratorfunction(kind):

        def call_generator(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
            with ToolCall(declared, apart=True):
                return (yield from cast("Generator[Any, Any, Any]", inner(*args, **kwargs)))

        return cast("Callable[P, R]", call_generator)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with ToolCall(declared):
            return inner(*args, **kwargs)

    return call


def _awaited_later(inner: Callable[P, R], declared: DeclaredTool) -> Callable[P, R]:
    """For a coroutine function below a plain decorator: the call lasts until its coroutine was awaited."""

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        with contextlib.ExitStack() as running:
            running.enter_context(ToolCall(declared, apart=True))
            result = inner(*args, **kwargs)
            return _finished(result, running.pop_all()) if inspect.iscoroutine(result) else result

    return cast("Callable[P, R]", call)


async def _finished(coroutine: Awaitable[R], running: contextlib.ExitStack) -> R:
    with running:
        return await coroutine


def _first(generator: AsyncGenerator[R, Any]) -> Awaitable[R]:
    """Begins a generator unbeknown to the event loop, which would close it beside the one around it."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _described(wrapper: Callable[P, R], inner: Callable[P, R]) -> Callable[P, R]:
    """Gives a wrapper what frameworks read of a tool: name, documentation, signature and annotations."""
    wrapper.__annotations__ = {}
    functools.update_wrapper(wrapper, inner)
    if not inspect.isroutine(inner):
        # What partials and objects say of themselves is about partials and objects, not about the call.
        source = _source(inner)
        wrapper.__name__ = wrapper.__qualname__ = _name_of(inner)
        wrapper.__doc__ = (
            source.__doc__ if isinstance(inner, functools.partial) else inner.__doc__ or source.__doc__
        )
        annotations = dict(getattr(source, "__annotations__", {}))
        with contextlib.suppress(ValueError, TypeError):  # a builtin without a signature
            known = {*inspect.signature(inner).parameters, "return"}
            annotations = {name: value for name, value in annotations.items() if name in known}
        wrapper.__annotations__ = annotations
    return wrapper
