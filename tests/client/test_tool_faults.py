"""Whatever breaks in the library, a tool's result, exception and control flow are as without it."""

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from llmd_agents import program, tool, tool_call
from llmd_agents.client import asked, declared_tools, durations, open_call
from tests.client.listening import ToolObserver, observing

# In the package, the function of that name hides the module.
block = importlib.import_module("llmd_agents.client.tool_call")


class Broken(Exception):
    """What must never be seen outside."""


def broken(*_: Any, **__: Any) -> Any:
    raise Broken


class BrokenObserver:
    def __getattr__(self, name: str) -> Any:
        return broken


@tool(expected=1, result_lifetime="step")
def plain(error: Exception | None = None) -> str:
    if error is not None:
        raise error
    return "result"


@tool
async def later(error: Exception | None = None) -> str:
    await asyncio.sleep(0)
    return plain(error)


@tool
def stream(error: Exception | None = None) -> Iterator[str]:
    yield plain(error)


@tool
async def feed(error: Exception | None = None) -> AsyncIterator[str]:
    yield await later(error)


async def _collected(error: Exception | None = None) -> str:
    items = [item async for item in feed(error)]
    return items[0]


def with_block(error: Exception | None = None) -> str:
    with tool_call("plain"):
        return plain(error)


WAYS: list[Callable[[Exception | None], str]] = [
    plain,
    lambda error: asyncio.run(_coroutine(error)),
    lambda error: next(iter(stream(error))),
    lambda error: asyncio.run(_collected(error)),
    with_block,
]


async def _coroutine(error: Exception | None) -> str:
    return await later(error)


def _fault(patch: pytest.MonkeyPatch, name: str) -> None:
    if name == "library missing":
        patch.setitem(sys.modules, "fastdigest", None)
    elif name == "sketch":
        patch.setattr(durations, "_digest", broken)
    elif name == "durations":
        patch.setattr(block, "tool_durations", broken)
    elif name == "expectation":
        patch.setattr(open_call, "expectation", broken)
    elif name == "clock":
        patch.setattr(block, "monotonic", broken)
    elif name == "frame":
        patch.setattr(block, "current_frame", broken)
    elif name == "adoption":
        patch.setattr(asked.AskedTools, "adopt", broken)
    elif name == "record":
        patch.setattr(open_call, "ToolRecord", broken)
    elif name == "end":
        patch.setattr(open_call.OpenCall, "leave", broken)
    elif name == "events":
        patch.setattr(open_call, "ToolStarted", broken)
        patch.setattr(open_call, "ToolFinished", broken)


FAULTS = ["none", "library missing", "sketch", "durations", "expectation", "clock", "frame", "adoption"]
FAULTS += ["record", "end", "events", "outbox", "sender", "observer"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_fault_in_every_hook_in_turn(monkeypatch: pytest.MonkeyPatch, fault: str, way: int) -> None:
    monkeypatch.setattr(durations, "_learned", durations.ToolDurations())
    monkeypatch.setattr(declared_tools, "_declared", type(declared_tools._declared)())
    error = ValueError("the tool's own")
    with program("p") as run, monkeypatch.context() as patch:
        run.root.asked.asked("s1", [("c1", "plain"), ("c2", "later")])
        _fault(patch, fault)
        if fault == "outbox":
            patch.setattr(run, "announce", broken)
        elif fault == "sender":
            patch.setattr(run.outbox, "put", broken)
        watcher: Any = BrokenObserver() if fault == "observer" else ToolObserver()
        with observing(watcher):
            assert WAYS[way](None) == "result"
            with pytest.raises(ValueError, match="the tool's own") as caught:
                WAYS[way](error)
            assert caught.value is error
            assert caught.value.__context__ is None
            run.root.asked.asked("s2", [("c3", "plain"), ("c4", "other")])
            run.root.asked.resulted(["c3", "c4"])
            run.root.asked.asked("s3", [("c5", "plain")])
            run.root.asked.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_so_outside_of_any_program(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(durations, "_learned", durations.ToolDurations())
    _fault(monkeypatch, fault)
    for way in WAYS:
        assert way(None) == "result"
        with pytest.raises(ValueError, match="own"):
            way(ValueError("the tool's own"))
