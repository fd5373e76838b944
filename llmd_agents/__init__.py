"""llmd-agents: carries what an agent program knows about its model calls to the servers that run them.

from llmd_agents import instrument, program, tool
"""

from typing import TYPE_CHECKING, Any

from . import client
from .client import attach, instrument, program, tool, tool_call

if TYPE_CHECKING:
    from .client import (
        AsyncFork,
        Best,
        ContextExecutor,
        Forecast,
        Fork,
        Run,
        SyncFork,
        continue_program,
        current_baggage,
        current_environment,
        current_headers,
        current_meta,
        mark,
    )

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
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
