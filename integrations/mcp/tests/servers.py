"""Servers of both kinds, whose tools ask models themselves; over HTTP, or as a process of its own over stdio.

python -m tests.servers sdk|fastmcp|plain MODEL_URL
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from fastmcp import FastMCP
from mcp.server.mcpserver import MCPServer
from openai import AsyncOpenAI, OpenAI

from llmd_agents.client import current_run, instrument
from llmd_agents.serving import in_background
from llmd_agents_mcp import LlmdAgentsExtension, LlmdAgentsMiddleware, tool_hints

KINDS = ("sdk", "fastmcp")


def server(kind: str, model_url: str) -> Any:
    made: Any
    if kind == "sdk":
        hints = LlmdAgentsExtension()
        made = MCPServer("library", extensions=[hints], middleware=[hints])
    elif kind == "fastmcp":
        made = FastMCP("library", middleware=[LlmdAgentsMiddleware()])
    else:
        made = MCPServer("library")
    tools(made, model_url)
    return made


def tools(made: Any, model_url: str) -> None:
    options: Any = {"base_url": model_url, "api_key": "none", "max_retries": 0}

    async def ask(kind: str) -> None:
        async with instrument(AsyncOpenAI(**options)) as model:
            with labelled(kind):
                await model.completions.create(model="m", prompt=kind)

    @made.tool()
    async def summarize(text: str) -> str:
        """Two steps, one after the other."""
        await ask("read")
        await ask("shorten")
        return "short"

    @made.tool()
    def compare(text: str) -> str:
        """A step and a fork, in a plain function."""
        with instrument(OpenAI(**options)) as model:
            with labelled("split"):
                model.completions.create(model="m", prompt="split")
            run = current_run()
            if run is not None:
                with run.fork(2, name="sides") as fork:
                    fork.map(lambda side: model.completions.create(model="m", prompt=side), ["left", "right"])
        return "even"

    @made.tool(meta={"shop/colour": "blue"})
    @tool_hints(expected=3, sigma=0.5, result_lifetime=60, cacheable=True)
    async def search(query: str) -> str:
        """Asks no model."""
        return "found"

    @made.tool()
    async def fail(text: str) -> str:
        await ask("try")
        raise RuntimeError("no such page")

    @made.tool()
    async def wait(text: str) -> str:
        await ask("begin")
        await asyncio.sleep(30)
        return "waited"


def labelled(kind: str) -> AbstractContextManager[None]:
    run = current_run()
    return nullcontext() if run is None else run.label(kind=kind)


def listening(made: Any) -> Any:
    """Returns the ASGI application of a server of either kind."""
    return made.http_app() if isinstance(made, FastMCP) else made.streamable_http_app()


@contextmanager
def over_http(made: Any) -> Iterator[str]:
    """Serves on a free port, in a thread of its own; yields the URL."""
    with in_background(listening(made)) as url:
        yield f"{url}/mcp"


if __name__ == "__main__":
    _, asked, url = sys.argv
    made = server(asked, url)
    if isinstance(made, FastMCP):
        made.run(show_banner=False)
    else:
        made.run()
