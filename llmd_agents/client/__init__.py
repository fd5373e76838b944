"""The client: turns an application's structure into hints on its model calls.

Nothing in this package imports the runtime, the router or an engine.
"""

from llmd_agents.hints import Forecast

from .fork import AsyncFork, Fork, SyncFork
from .instrument import instrument
from .run import Run, program
from .tool import tool, tool_call

__all__ = ["AsyncFork", "Forecast", "Fork", "Run", "SyncFork", "instrument", "program", "tool", "tool_call"]
