"""Clients of both kinds, attached."""

import os
import sys
from pathlib import Path
from typing import Any

import fastmcp
from fastmcp.client.transports import StdioTransport
from mcp import Client, StdioServerParameters
from openai import AsyncOpenAI

from llmd_agents.client import instrument
from llmd_agents_mcp import attach

FOLDER = Path(__file__).parents[1]


def to(kind: str, url: str) -> Any:
    """Returns a client for a server that listens."""
    return attach(fastmcp.Client(url) if kind == "fastmcp" else Client(url))


def to_process(kind: str, *arguments: str) -> Any:
    """Returns a client that starts a server: `python -m tests.servers` with these arguments."""
    command, args = sys.executable, ["-m", "tests.servers", *arguments]
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    if kind == "fastmcp":
        return attach(fastmcp.Client(StdioTransport(command, args, env=env, cwd=str(FOLDER))))
    return attach(Client(StdioServerParameters(command=command, args=args, env=env, cwd=FOLDER)))


def models(base_url: str) -> AsyncOpenAI:
    return instrument(AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0))


async def listed(client: Any) -> dict[str, Any]:
    """Returns what is said of each tool, by name."""
    tools = await client.list_tools()
    return {tool.name: tool.meta or {} for tool in getattr(tools, "tools", tools)}
