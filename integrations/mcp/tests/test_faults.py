"""Whatever goes wrong in the adapter, the call of a tool is what it was."""

import ast
import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastmcp
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

import llmd_agents.client
import llmd_agents_mcp
from llmd_agents.client import META_KEY, Continuation, HandOverBlock, Run, program
from llmd_agents.testing import recording_server
from llmd_agents_mcp import (
    LlmdAgentsExtension,
    LlmdAgentsMiddleware,
    attach,
    declared,
    sent_call,
    served_call,
    tested,
)
from tests.clients import listed, models
from tests.servers import KINDS, server

HOOKS = [
    (sent_call, "tool_call"),
    (sent_call, "current_run"),
    (sent_call, "declare_tool"),
    (sent_call, "read_hints"),
    (sent_call, "steps_made"),
    (served_call, "handed_over"),
    (served_call, "Continuation"),
    (served_call, "known_hints"),
    (served_call, "tool_took"),
    (declared, "known_hints"),
    (Run, "hand_over"),
    (HandOverBlock, "__enter__"),
    (HandOverBlock, "__exit__"),
    (HandOverBlock, "withdraw"),
    (Continuation, "__aenter__"),
    (Continuation, "__aexit__"),
]


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("canary")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook[0].__name__}.{hook[1]}")
def test_a_fault_in_a_hook(
    hook: tuple[Any, str], kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = program("p")

    async def main(base_url: str) -> None:
        made = server(kind, base_url)
        client: Any = fastmcp.Client(made) if kind == "fastmcp" else Client(made)
        async with models(base_url) as model, attach(client):
            with run:
                await model.completions.create(model="m", prompt="x")
                with monkeypatch.context() as patched:
                    patched.setattr(*hook, broken)
                    assert "search" in await listed(client)
                    result = await client.call_tool("summarize", {"text": "x"})
                    assert result.content[0].text == "short"
                    result = await client.call_tool("search", {"query": "x"})
                    assert result.content[0].text == "found"

    caplog.set_level("DEBUG", "llmd_agents.client")
    with recording_server() as recording:
        asyncio.run(main(recording.base_url))
        assert len(recording.calls) == 3
    logged = [record.getMessage() for record in caplog.records if record.name == "llmd_agents.client"]
    assert [text for text in logged if "ZeroDivisionError" in text]
    assert not [text for text in logged if "canary" in text]


def test_versions_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "MCP", ">=99")
    monkeypatch.setattr(tested, "FASTMCP", ">=98")
    with pytest.warns(UserWarning, match=r"llmd-agents-mcp is tested with mcp >=99, and 2\.\d"):
        hints = LlmdAgentsExtension()
    with pytest.warns(UserWarning, match="llmd-agents-mcp is tested with fastmcp-slim >=98"):
        middleware = LlmdAgentsMiddleware()
    sdk = MCPServer("s", extensions=[hints], middleware=[hints])
    fast: Any = fastmcp.FastMCP("s", middleware=[middleware])

    async def main(made: Any, client: Any) -> None:
        @made.tool()
        @llmd_agents_mcp.tool_hints(expected=3)
        async def search(query: str) -> str:
            return "found"

        assert attach(client) is client
        async with client, program("p"):
            assert META_KEY not in (await listed(client))["search"]
            result = await client.call_tool("search", {"query": "x"})
            assert META_KEY not in (result.meta or {})

    asyncio.run(main(sdk, Client(sdk)))
    asyncio.run(main(fast, fastmcp.Client(fast)))


def test_it_imports_nothing_deeper_than_the_client() -> None:
    for file in Path(llmd_agents_mcp.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert not [name for name in node.names if name.name.startswith("llmd_agents")], file
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "llmd_agents":
                assert node.module == "llmd_agents.client", file
                assert {name.name for name in node.names} <= set(llmd_agents.client.__all__), file


def test_it_needs_no_fastmcp() -> None:
    code = """
import sys
sys.modules["fastmcp"] = None
import mcp, llmd_agents_mcp
llmd_agents_mcp.attach(mcp.Client("http://127.0.0.1:9/mcp"))
try:
    llmd_agents_mcp.LlmdAgentsMiddleware
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fastmcp is missing: pip install llmd-agents-mcp[fastmcp]\n", done.stderr


def test_its_names() -> None:
    assert set(llmd_agents_mcp.__all__) == {
        "LlmdAgentsExtension",
        "LlmdAgentsMiddleware",
        "attach",
        "tool_hints",
    }
    assert all(getattr(llmd_agents_mcp, name) for name in llmd_agents_mcp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = llmd_agents_mcp.other
