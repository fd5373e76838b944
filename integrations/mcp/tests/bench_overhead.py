"""What the adapter adds to a call of a tool: `python -m tests.bench_overhead`, here, prints JSON.

Client and server are in one process, inside a program, and the tool does nothing: what remains is the
adapter's own cost, of the client's side and of the server's. The arms take turns in a changing order.
"""

import asyncio
import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import fastmcp
import httpx2
from mcp import Client
from mcp.server.mcpserver import MCPServer
from openai import AsyncOpenAI

from llmd_agents.client import instrument, program
from llmd_agents_mcp import LlmdAgentsExtension, LlmdAgentsMiddleware, attach

ROUNDS = 1000
WARM_UP = 100
ARMS = ("without", "client", "both")


def sdk(arm: str) -> Any:
    hints = [LlmdAgentsExtension()] if arm == "both" else []
    server = MCPServer("s", extensions=hints, middleware=hints)
    server.tool(name="look_up")(found)
    return Client(server) if arm == "without" else attach(Client(server))


def fast(arm: str) -> Any:
    server = fastmcp.FastMCP("s", middleware=[LlmdAgentsMiddleware()] if arm == "both" else [])
    server.tool(found, name="look_up")
    return fastmcp.Client(server) if arm == "without" else attach(fastmcp.Client(server))


async def found(text: str) -> str:
    return "found"


async def timed(client: Any) -> tuple[float, float]:
    """Returns the microseconds that a call takes, and those in which this thread computes."""
    wall, cpu = time.perf_counter(), time.thread_time()
    await client.call_tool("look_up", {"text": "x"})
    return (time.perf_counter() - wall) * 1e6, (time.thread_time() - cpu) * 1e6


def answer(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={})


async def measure(make: Callable[[str], Any]) -> dict[str, float]:
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    model = instrument(AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", http_client=http))
    async with AsyncExitStack() as running, program("bench"):
        await running.enter_async_context(model)
        clients = {arm: await running.enter_async_context(make(arm)) for arm in ARMS}
        await model.completions.create(model="m", prompt="x")
        for number in range(WARM_UP + ROUNDS):
            first = number % len(ARMS)
            for arm in (*ARMS[first:], *ARMS[:first]):
                took = await timed(clients[arm])
                if number >= WARM_UP:
                    times[arm].append(took)
    told: dict[str, float] = {}
    for clock, name in enumerate(("p50_us", "p50_cpu_us")):
        without, client, both = (statistics.median(took[clock] for took in times[arm]) for arm in ARMS)
        told |= {
            f"{name}_per_call_without": round(without, 1),
            f"{name}_per_call_with": round(both, 1),
            f"{name}_added_by_client": round(client - without, 1),
            f"{name}_added_by_server": round(both - client, 1),
        }
    return told


if __name__ == "__main__":
    logging.disable()
    print(json.dumps({"mcp": asyncio.run(measure(sdk)), "fastmcp": asyncio.run(measure(fast))}))
