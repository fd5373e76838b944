"""Beside the adapter of a framework for agents, a step is one step and a call of a tool is one call."""

import asyncio
from typing import Any

import pytest

from llmd_agents.testing import recording_server
from tests.clients import to
from tests.servers import KINDS, over_http, server

pytest.importorskip("langchain_openai")
other = pytest.importorskip("llmd_agents_langchain")


@pytest.mark.parametrize("kind", KINDS)
def test_a_tool_behind_mcp_in_a_chain_of_langchain(kind: str) -> None:
    from langchain_core.runnables import RunnableLambda
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    async def main(session: Any, base_url: str) -> None:
        options: Any = {"model": "m", "base_url": base_url, "api_key": "none", **other.hooked()}
        model = ChatOpenAI(**options)

        @tool
        async def summarize(text: str) -> str:
            """Summarizes."""
            return str(await session.call_tool("summarize", {"text": text}))

        async def flow(question: str) -> str:
            await model.ainvoke(question)
            await summarize.ainvoke({"text": "x"})
            return (await model.ainvoke("write")).text

        async with session:
            handlers = [other.LlmdAgentsHandler()]
            await RunnableLambda(flow).ainvoke("plan", {"callbacks": handlers})
        await options["http_async_client"].aclose()
        options["http_client"].close()

    with recording_server() as recording, over_http(server(kind, recording.base_url)) as url:
        asyncio.run(main(to(kind, url), recording.base_url))
        graph = recording.graph("flow")
        assert len(recording.calls) == len(graph.steps) == 4
    assert [(one.kind, other.kind) for one, other in graph.edges] == [
        (None, "read"),
        ("read", "shorten"),
        ("shorten", None),
    ]
    graph.assert_tools(["summarize"])
