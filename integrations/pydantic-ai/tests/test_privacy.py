"""Names, digests and sizes leave the process; contents and ids of people do not."""

import asyncio
import logging

import pytest
from pydantic_graph import GraphBuilder, StepContext

from llmd_agents.client import end_threads
from llmd_agents.testing import Line
from llmd_agents_pydantic_ai import hinted

from .app import agents, asks, served

CANARY = "canary-8d3f"


def test_no_content_leaves(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="llmd_agents")
    with served(
        asks("clerk", "look_up", key=CANARY), Line(f"done {CANARY}", agent="clerk", times=2)
    ) as server:
        clerk = agents(server)("clerk", instructions=f"Keep {CANARY} secret.")

        @clerk.tool_plain
        def look_up(key: str) -> str:
            return f"{key} is {CANARY}"

        builder = GraphBuilder(name="g", input_type=str, output_type=str)

        @builder.step
        async def only(ctx: StepContext) -> str:
            return str((await clerk.run(ctx.inputs)).output)

        edge = builder.edge_from
        builder.add(edge(builder.start_node).to(only), edge(only).to(builder.end_node))

        async def main() -> None:
            await hinted(builder.build()).run(inputs=f"What is {CANARY}?")
            await clerk.run("?", conversation_id=f"chat of {CANARY}")

        asyncio.run(main())
        end_threads()
        server.settle()
        assert len(server.calls) == 3
        assert all(CANARY.encode() in call.body for call in server.calls)
        told = [request for request in server.requests if request not in server.calls]
        assert told
        assert not [request for request in told if CANARY.encode() in request.body]
        assert not [request for request in server.requests if CANARY in str(request.headers)]
        assert CANARY not in caplog.text
