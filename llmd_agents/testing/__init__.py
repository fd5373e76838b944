"""Test doubles: a recording server with scripted replies, and assertions on the program that it recorded.

Needs the extra `testing`. Fixtures for pytest are in `llmd_agents.testing.plugin`.
"""

from importlib.util import find_spec

for _package in ("httptools", "orjson", "uvicorn"):
    if find_spec(_package) is None:
        raise ModuleNotFoundError(
            f"llmd_agents.testing needs {_package}; install it with: pip install 'llmd-agents[testing]'",
            name=_package,
        )

from .answers import Failure, Hangup, Reply, ToolCall, Usage  # noqa: E402
from .graph import ProgramGraph, program_graphs  # noqa: E402
from .nodes import BranchNode, ForkNode, StepNode, ToolNode  # noqa: E402
from .request import RecordedRequest  # noqa: E402
from .script import Line, Script, ScriptError  # noqa: E402
from .server import RecordingServer, recording_server  # noqa: E402

__all__ = [
    "BranchNode",
    "Failure",
    "ForkNode",
    "Hangup",
    "Line",
    "ProgramGraph",
    "RecordedRequest",
    "RecordingServer",
    "Reply",
    "Script",
    "ScriptError",
    "StepNode",
    "ToolCall",
    "ToolNode",
    "Usage",
    "program_graphs",
    "recording_server",
]
