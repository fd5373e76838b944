"""llmd-agents: carries what an agent program knows about its model calls to the servers that run them.

from llmd_agents import instrument, program, tool
"""

from .client import (
    AsyncFork,
    Best,
    ContextExecutor,
    Forecast,
    Fork,
    Run,
    SyncFork,
    attach,
    continue_program,
    current_baggage,
    current_environment,
    current_headers,
    current_meta,
    instrument,
    mark,
    program,
    tool,
    tool_call,
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
