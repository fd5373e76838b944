"""The client: turns an application's structure into hints on its model calls.

Nothing in this package imports the runtime, the router or an engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .instrument import attach, instrument
from .program import program
from .tool import tool
from .tool_call import tool_call

if TYPE_CHECKING:
    from llmd_agents.hints import Forecast

    from .async_fork import AsyncFork
    from .best_of import Best
    from .continued import continue_program
    from .executor import ContextExecutor
    from .fork import Fork
    from .handover import current_baggage, current_environment, current_headers, current_meta
    from .marks import mark
    from .run import Run
    from .sync_fork import SyncFork

__all__ = [
    "AsyncFork",
    "Best",
    "ContextExecutor",
    "Forecast",
    "Fork",
    "Run",
    "SyncFork",
    "attach",
    "continue_program",
    "current_baggage",
    "current_environment",
    "current_headers",
    "current_meta",
    "instrument",
    "mark",
    "program",
    "tool",
    "tool_call",
]

_WHEN_USED = {
    "AsyncFork": "async_fork",
    "Best": "best_of",
    "ContextExecutor": "executor",
    "Forecast": ".hints",
    "Fork": "fork",
    "Run": "run",
    "SyncFork": "sync_fork",
    "continue_program": "continued",
    "current_baggage": "handover",
    "current_environment": "handover",
    "current_headers": "handover",
    "current_meta": "handover",
    "mark": "marks",
}
"""What not every program needs is loaded by those that do, so that others start sooner."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHEN_USED[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
