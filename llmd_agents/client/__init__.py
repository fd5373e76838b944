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
    from .begin_scope import begin_scope, current_run, current_scope
    from .best_of import Best
    from .continued import Continuation, continue_program
    from .declared_tools import declare_tool
    from .durations import Expected, expected_duration, tool_took
    from .executor import ContextExecutor
    from .fan_out import FanOut
    from .fork import Fork
    from .handover import (
        META_KEY,
        HandOverBlock,
        current_baggage,
        current_environment,
        current_headers,
        current_meta,
    )
    from .kept_programs import end_threads
    from .marks import mark
    from .open_scopes import OpenScopes
    from .quiet import faults
    from .run import Run
    from .scope import Scope
    from .supported import is_supported
    from .sync_fork import SyncFork

__all__ = [
    "META_KEY",
    "AsyncFork",
    "Best",
    "ContextExecutor",
    "Continuation",
    "Expected",
    "FanOut",
    "Forecast",
    "Fork",
    "HandOverBlock",
    "OpenScopes",
    "Run",
    "Scope",
    "SyncFork",
    "attach",
    "begin_scope",
    "continue_program",
    "current_baggage",
    "current_environment",
    "current_headers",
    "current_meta",
    "current_run",
    "current_scope",
    "declare_tool",
    "end_threads",
    "expected_duration",
    "faults",
    "instrument",
    "is_supported",
    "mark",
    "program",
    "tool",
    "tool_call",
    "tool_took",
]

_WHEN_USED = {
    "AsyncFork": "async_fork",
    "Best": "best_of",
    "ContextExecutor": "executor",
    "Continuation": "continued",
    "Expected": "durations",
    "FanOut": "fan_out",
    "Forecast": ".hints",
    "Fork": "fork",
    "HandOverBlock": "handover",
    "META_KEY": "handover",
    "OpenScopes": "open_scopes",
    "Run": "run",
    "Scope": "scope",
    "SyncFork": "sync_fork",
    "begin_scope": "begin_scope",
    "continue_program": "continued",
    "current_baggage": "handover",
    "current_environment": "handover",
    "current_headers": "handover",
    "current_meta": "handover",
    "current_run": "begin_scope",
    "current_scope": "begin_scope",
    "declare_tool": "declared_tools",
    "end_threads": "kept_programs",
    "expected_duration": "durations",
    "faults": "quiet",
    "is_supported": "supported",
    "mark": "marks",
    "tool_took": "durations",
}
"""What not every program needs is loaded by those that do, so that others start sooner."""


def __getattr__(name: str) -> Any:
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_WHEN_USED[name]}", __name__)
    # All of them at once: the import has put the module where a function of the same name belongs.
    globals().update({one: getattr(module, one) for one, at in _WHEN_USED.items() if at == _WHEN_USED[name]})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
