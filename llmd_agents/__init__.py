"""llmd-agents: carries what an agent program knows about its model calls to the servers that run them.

from llmd_agents import instrument, program, tool
"""

from .client import AsyncFork, Forecast, Fork, Run, SyncFork, instrument, program, tool, tool_call

__all__ = ["AsyncFork", "Forecast", "Fork", "Run", "SyncFork", "instrument", "program", "tool", "tool_call"]
__version__ = "0.1.0"
