"""`@tool` on everything that can be called: what it reports, and that nobody notices otherwise."""

import asyncio
import functools
import gc
import inspect
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any, assert_type

import pytest

from llmd_agents import program, tool, tool_call
from llmd_agents.client import durations
from llmd_agents.hints import Lifetime
from tests.client.listening import ToolObserver, listening, observing


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_learned", durations.ToolDurations())


class Shop:
    """Methods of all kinds, decorated from both sides."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    @tool
    def plain(self, item: str) -> str:
        return self.prefix + item

    @tool
    async def later(self, item: str) -> str:
        return self.prefix + item

    @tool
    @classmethod
    def outside_class(cls, item: str) -> str:
        return cls.__name__ + item

    @classmethod
    @tool
    def inside_class(cls, item: str) -> str:
        return cls.__name__ + item

    @tool(name="price")
    @staticmethod
    def outside_static(item: str) -> str:
        return item

    @staticmethod
    @tool
    async def inside_static(item: str) -> str:
        return item


class Lookup:
    """Finds things."""

    async def __call__(self, key: str, *, deep: bool = False) -> str:
        return key.upper()


def add(left: int, right: int = 1) -> int:
    """Adds."""
    return left + right


def test_methods_of_all_kinds() -> None:
    async def main() -> list[str]:
        shop = Shop("a-")
        return [
            shop.plain("b"),
            await shop.later("c"),
            shop.outside_class("d"),
            Shop.outside_class("e"),
            Shop.inside_class("f"),
            shop.outside_static("g"),
            Shop.outside_static("h"),
            await Shop.inside_static("i"),
        ]

    with listening() as (_, told):
        results = asyncio.run(main())
    assert results == ["a-b", "a-c", "Shopd", "Shope", "Shopf", "g", "h", "i"]
    names = ["plain", "later", "outside_class", "outside_class", "inside_class", "price", "price"]
    names.append("inside_static")
    assert told.tools == [text for name in names for text in (f"+{name}", f"-{name} ok")]
    assert [event.call for event in told.started] == [f"t{index}" for index in range(1, 9)]


def test_partials_and_callable_objects() -> None:
    add_two = tool(functools.partial(add, right=2))
    look_up = tool(expected="2s")(Lookup())
    with listening() as (_, told):
        assert add_two(3) == 5
        assert asyncio.run(_awaited(look_up("x", deep=True))) == "X"
    assert told.tools == ["+add", "-add ok", "+Lookup", "-Lookup ok"]
    assert told.started[1].expected == 2.0
    assert (add_two.__name__, add_two.__doc__) == ("add", "Adds.")
    assert (look_up.__name__, look_up.__doc__) == ("Lookup", "Finds things.")
    assert str(inspect.signature(look_up)) == "(key: str, *, deep: bool = False) -> str"
    assert typing.get_type_hints(look_up) == {"key": str, "deep": bool, "return": str}
    assert inspect.iscoroutinefunction(look_up)
    assert str(inspect.signature(add_two)) == "(left: int, *, right: int = 2) -> int"


async def _awaited(value: Any) -> Any:
    return await value


def _stream(count: int) -> Iterator[int]:
    """Counts."""
    yield from range(count)


async def _feed(count: int) -> AsyncIterator[int]:
    """Feeds."""
    for index in range(count):
        yield index


async def _later() -> None:
    """Waits."""


KINDS: list[Callable[[object], bool]] = [
    inspect.isfunction,
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
]


FUNCTIONS: list[Callable[..., Any]] = [add, _later, _stream, _feed]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_inspect_and_frameworks_see(function: Callable[..., Any]) -> None:
    wrapped = tool(name="other", expected=1)(function)
    assert [kind(wrapped) for kind in KINDS] == [kind(function) for kind in KINDS]
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert typing.get_type_hints(wrapped) == typing.get_type_hints(function)
    assert wrapped.__wrapped__ is function  # type: ignore[attr-defined]
    assert (wrapped.__name__, wrapped.__qualname__) == (function.__name__, function.__qualname__)
    assert (wrapped.__doc__, wrapped.__module__) == (function.__doc__, function.__module__)


def test_types_are_kept() -> None:
    @tool
    def plain(left: int, *, right: str = "") -> float:
        return left / 2

    @tool(expected=timedelta(seconds=3))
    async def later(left: int) -> str:
        return str(left)

    assert_type(plain(1, right="x"), float)
    assert_type(asyncio.run(later(1)), str)
    assert_type(tool(_stream)(2), Iterator[int])
    assert_type(tool(_feed)(2), AsyncIterator[int])
    assert_type(tool(functools.partial(add, right=2))(1), int)
    assert_type(Shop("").plain("x"), str)
    assert_type(Shop.outside_class("x"), str)
    assert_type(Shop.outside_static("x"), str)


def test_a_generator_is_a_call_from_its_first_item_to_its_end() -> None:
    seen: list[object] = []

    @tool
    def talk() -> typing.Generator[str, str, str]:
        try:
            seen.append((yield "one"))
            yield "two"
        except ValueError as error:
            seen.append(error)
        yield "three"
        return "done"

    def drive() -> typing.Generator[str, str, None]:
        seen.append((yield from talk()))

    with listening() as (_, told):
        generator = drive()
        never_begun = talk()
        assert told.tools == []
        assert next(generator) == "one"
        assert told.tools == ["+talk"]
        assert generator.send("hello") == "two"
        error = ValueError("x")
        assert generator.throw(error) == "three"
        assert next(generator, None) is None
        assert told.tools == ["+talk", "-talk ok"]
        never_begun.close()
    assert seen == ["hello", error, "done"]


def test_an_async_generator_is_driven_as_without_us() -> None:
    seen: list[object] = []

    @tool
    async def talk() -> typing.AsyncGenerator[str, str]:
        try:
            seen.append((yield "one"))
            yield "two"
        except ValueError as error:
            seen.append(error)
        try:
            yield "three"
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    @tool
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError

    async def main() -> None:
        generator = talk()
        assert await anext(generator) == "one"
        assert await generator.asend("hello") == "two"
        assert await generator.athrow(ValueError("x")) == "three"
        await generator.aclose()
        assert [item async for item in tool(_feed)(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            _ = [item async for item in broken()]

    with listening() as (_, told):
        asyncio.run(main())
    assert (seen[0], str(seen[1]), seen[2]) == ("hello", "x", "closed")
    assert told.tools == [
        "+talk", "-talk cancelled", "+_feed", "-_feed ok", "+broken", "-broken error",
    ]  # fmt: skip


def test_generators_closed_elsewhere() -> None:
    @tool
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    @tool
    async def feed() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)

    watcher = ToolObserver()
    complaints: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        in_task = feed()
        assert await anext(in_task) == 1
        assert watcher.current.get() is None
        await asyncio.create_task(in_task.aclose())  # type: ignore[attr-defined]
        for _ in range(2):  # left to the event loop: by the garbage collector, and at the loop's end
            dropped = feed()
            assert await anext(dropped) == 1
        del dropped
        gc.collect()
        await asyncio.sleep(0.01)
        kept.append(feed())
        await anext(kept[0])

    kept: list[Any] = []
    with listening() as (run, told), observing(watcher):
        in_thread, by_collector = numbers(), numbers()
        assert next(in_thread) == next(by_collector) == 1
        assert watcher.current.get() is None
        thread = threading.Thread(target=in_thread.close)  # type: ignore[attr-defined]
        thread.start()
        thread.join()
        del by_collector
        gc.collect()
        asyncio.run(main())
    assert complaints == []
    ends = ["-numbers cancelled"] * 2 + ["-feed cancelled"] * 4
    assert [text for text in told.tools if text[0] == "-"] == ends
    assert sorted(watcher.told) == sorted(told.tools)
    assert all(record.ended is not None for record in run.history.tools)


def test_a_coroutine_function_below_a_plain_decorator_is_called_until_it_is_awaited() -> None:
    def plain(function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(function)(lambda *args: function(*args))

    def bridged(function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(function)(lambda *args: asyncio.run(function(*args)))

    async def work(error: Exception | None) -> str:
        [record] = [record for record in run.history.tools if record.ended is None]
        assert (record.tool, record.outcome) == ("work", None)
        if error is not None:
            raise error
        return "done"

    with program("p") as run:
        later, at_once = tool(plain(work)), tool(bridged(work))
        assert asyncio.run(later(None)) == "done"
        with pytest.raises(KeyError):
            asyncio.run(later(KeyError()))
        assert at_once(None) == "done"
        with pytest.raises(KeyError):
            at_once(KeyError())
        with pytest.raises(TypeError):
            later()
        assert [record.outcome for record in run.history.tools] == ["ok", "error", "ok", "error", "error"]


def test_outcomes() -> None:
    @tool
    def work(error: BaseException | None) -> None:
        if error is not None:
            raise error

    @tool
    async def wait() -> None:
        await asyncio.sleep(60)

    async def cancel() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with listening() as (run, told):
        work(None)
        for error in (
            StopIteration(),
            GeneratorExit(),
            KeyboardInterrupt(),
            SystemExit(),
            ZeroDivisionError(),
        ):
            with pytest.raises(type(error)) as caught:
                work(error)
            assert caught.value is error
        asyncio.run(cancel())
    outcomes = ["ok", "error", "cancelled", "cancelled", "cancelled", "error", "cancelled"]
    assert [event.outcome for event in told.finished] == outcomes
    assert [record.outcome for record in run.history.tools] == outcomes
    # How long a call took that was broken off says nothing about the tool.
    learned = durations.tool_durations().expect("work")
    assert learned is not None
    assert learned.samples == 3
    assert durations.tool_durations().expect("wait") is None


def test_nested_calls_and_what_is_current_in_them() -> None:
    watcher = ToolObserver()

    @tool
    def inner() -> str | None:
        return watcher.current.get()

    @tool
    def outer() -> list[str | None]:
        return [watcher.current.get(), inner(), watcher.current.get()]

    with listening() as (_, told), observing(watcher):
        assert outer() == ["t1", "t2", "t1"]
        assert watcher.current.get() is None
    assert told.tools == watcher.told == ["+outer", "+inner", "-inner ok", "-outer ok"]


def test_tools_in_threads() -> None:
    @tool
    def work() -> None: ...

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(8)))

    with listening() as (_, told):
        asyncio.run(main())
    assert sorted(event.call for event in told.started) == sorted(f"t{index}" for index in range(1, 9))
    assert len(told.finished) == 8


def test_a_tool_outside_of_any_program_is_learned_all_the_same() -> None:
    @tool
    def work() -> None: ...

    for _ in range(durations.OBSERVATIONS_MIN):
        work()
    learned = durations.tool_durations().expect("work")
    assert learned is not None
    assert learned.samples == durations.OBSERVATIONS_MIN


def test_blocks() -> None:
    with listening() as (run, told):
        with tool_call("fetch", expected="2s", sigma=0.3, result_lifetime="10m"):
            pass
        with pytest.raises(OSError, match="gone"), tool_call("fetch", result_lifetime="step"):
            raise OSError("gone")
    first, second = told.started
    assert (first.expected, first.sigma, first.result_lifetime) == (2.0, 0.3, 600.0)
    assert second.result_lifetime is Lifetime.STEP
    assert [event.outcome for event in told.finished] == ["ok", "error"]
    assert [(record.call, record.expected) for record in run.history.tools] == [("t1", 2.0), ("t2", None)]


def test_a_block_around_a_tool_of_its_name_is_one_call() -> None:
    @tool(expected="3s")
    def fetch(depth: int = 0) -> int:
        return fetch(depth - 1) if depth else 0

    with listening() as (_, told):
        with tool_call("fetch", call_id="c1"), tool_call("fetch"):  # two that observe the same call
            fetch()
        assert told.tools == ["+fetch", "-fetch ok"]
        with tool_call("fetch"):
            fetch(depth=1)  # calls itself
            fetch()
        assert told.tools[2:] == ["+fetch", "+fetch", "-fetch ok", "+fetch", "-fetch ok", "-fetch ok"]
        fetch()
        with tool_call("fetch", call_id="c2"), tool_call("fetch", call_id="c3"), tool_call("other"):
            pass
        assert len(told.started) == 8
    assert told.started[0].expected == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expected": "soon"}, "expected: 'soon' is not a duration"),
        ({"expected": -1}, "expected: a duration must be from 0"),
        ({"expected": 1e10}, "expected: a duration must be from 0 to 1,000,000,000 seconds"),
        ({"expected": "9" * 10_000_000 + "s"}, "expected: '999"),
        ({"expected": 1, "sigma": 11}, "sigma: the standard deviation"),
        ({"expected": 1, "sigma": float("nan")}, "sigma: the standard deviation"),
        ({"sigma": 0.5}, "sigma: says how unsure `expected` is"),
        ({"result_lifetime": "forever"}, "result_lifetime: one of persistent, program, branch, step"),
        ({"name": ""}, "name: 1 to 128 printable"),
        ({"name": "a\nb"}, "name: 1 to 128 printable"),
        ({"name": "x" * 10_000_000}, "name: 1 to 128 printable"),
    ],
)
def test_misuse_is_refused_where_it_is_declared(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")) as refused:
        tool(**arguments)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("thing", [Shop, 3, property(lambda self: None)])
def test_what_is_no_tool(thing: Any) -> None:
    with pytest.raises(TypeError, match="a tool is a function or a callable object"):
        tool(thing)


def test_a_tool_within_a_branch() -> None:
    @tool
    def work(item: int) -> int:
        return item

    with listening() as (run, told), run.fork(2) as fork:
        assert fork.map(work, [1, 2]) == [1, 2]
    assert sorted(event.branch for event in told.started) == ["f1.0", "f1.1"]


def test_programs_end_whatever_their_tools_do() -> None:
    @tool
    def endless() -> Iterator[int]:
        while True:
            yield 1

    with program("p"):
        generator = endless()
        next(generator)
    del generator
