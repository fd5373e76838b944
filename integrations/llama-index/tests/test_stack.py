"""The example, as a user would run it, and what a router sees of it in front of embedded engines."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai import OpenAI

from llmd_agents.client import current_run
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.engine.script import read_scripts
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background
from llmd_agents.testing import recording_server
from llmd_agents_llama_index import hooked
from tests.test_workflows import MapReduce
from tests.told import edges, wait_for

EXAMPLE = Path(__file__).parents[3] / "examples" / "llama_index_workflow.py"

SCOUT = """
[turn]
replies = [
  { calls = [{ name = "search", arguments = { query = "x" } },
             { name = "search", arguments = { query = "y" } }] },
  { calls = [{ name = "search", arguments = { query = "z" } }] },
  { tokens = 8 },
]
"""
"""What the engines say to an agent."""


@pytest.fixture
def router(tmp_path: Path) -> Iterator[str]:
    scripts = tmp_path / "scout.toml"
    scripts.write_text(SCOUT)
    known = read_scripts(scripts)
    engines = [EngineServer(load_profile("tiny"), time_scale=1000.0, scripts=known) for _ in range(2)]
    with in_background(engines[0]) as one, in_background(engines[1]) as other:
        config = RouterConfig(engines=(EngineConfig(url=one), EngineConfig(url=other)))
        with in_background(Router(config)) as url:
            yield url


def run_example(base_url: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name not in ("MODEL", "OPENAI_API_KEY")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), base_url],
        capture_output=True,
        text=True,
        env={**settings, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example() -> None:
    with recording_server() as server:
        assert run_example(server.base_url) == "3 sections: fine…\n"
        graph = server.graph("Article")
    graph = graph.labelled(lambda step: step.agent or "?")
    graph.assert_shape("outline > fork(3: draft > check) > edit")
    assert graph.assert_forked(3, name="draft").joined
    assert sum(edges(graph).values()) == 9


def test_the_example_through_a_router(router: str) -> None:
    assert run_example(f"{router}/v1").startswith("3 sections: ")


def finished(router: str, program_id: str) -> Any:
    """Returns what the router saw of a program."""

    def view() -> Any:
        return httpx.get(f"{router}/v1/agent/programs/{program_id}", timeout=10).json()

    wait_for(lambda: view()["status"] == "ok")
    return view()


def test_what_a_router_sees(router: str) -> None:
    ids = []

    class Noted(MapReduce):
        async def ask(self, text: str) -> str:
            run = current_run()
            assert run is not None
            ids.append(run.id)
            return await super().ask(text)

    async def main() -> None:
        clients = hooked()
        with clients["http_client"]:
            async with clients["async_http_client"]:
                await Noted(OpenAI(model="gpt-4o", api_base=f"{router}/v1", api_key="k", **clients)).run()

    asyncio.run(main())
    (program_id,) = set(ids)
    seen = finished(router, program_id)
    agents = {step["id"]: step["agent"] for step in seen["steps"]}
    assert sorted(agents.values()) == ["check"] * 3 + ["plan", "reduce"] + ["work"] * 3
    assert [
        (fork["name"], fork["width"], len(fork["branches"]), fork["joined"]) for fork in seen["forks"]
    ] == [("work", 3, 3, True)]
    found = sorted((agents[one], agents[other]) for one, other in seen["edges"])
    assert found == [("check", "reduce")] * 3 + [("plan", "work")] * 3 + [("work", "check")] * 3


def test_what_a_router_sees_of_an_agent_with_tools(router: str) -> None:
    ids = set()

    def search(query: str) -> str:
        """Searches."""
        run = current_run()
        assert run is not None
        ids.add(run.id)
        return f"found {query}"

    async def main() -> None:
        clients = hooked()
        with clients["http_client"]:
            async with clients["async_http_client"]:
                llm = OpenAI(
                    model="gpt-4o",
                    api_base=f"{router}/v1",
                    api_key="k",
                    default_headers={"x-llmd-script": "scout/turn"},
                    **clients,
                )
                agent = FunctionAgent(name="scout", tools=[search], llm=llm, streaming=False)
                await agent.run(user_msg="question")

    asyncio.run(main())
    (program_id,) = ids
    seen = finished(router, program_id)
    assert [(step["agent"], step["branch"]) for step in seen["steps"]] == [("scout", "main")] * 3
    assert seen["edges"] == [["s1", "s2"], ["s2", "s3"]]
    assert [(tool["tool"], tool["outcome"]) for tool in seen["tools"]] == [("search", "ok")] * 3
