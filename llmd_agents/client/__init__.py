"""The client: turns an application's structure into hints on its model calls.

Nothing in this package imports the runtime, the router or an engine.
"""

from llmd_agents.hints import Forecast

from .async_fork import AsyncFork
from .best_of import Best
from .continued import continue_program
from .executor import ContextExecutor
from .fork import Fork
from .handover import current_baggage, current_environment, current_headers, current_meta
from .instrument import attach, instrument
from .marks import mark
from .run import Run, program
from .sync_fork import SyncFork
from .tool import tool
from .tool_call import tool_call

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
