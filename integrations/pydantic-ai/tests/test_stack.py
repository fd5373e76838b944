"""Through the router to embedded engines."""

import asyncio
from typing import Any

import httpx
from openai import DefaultAsyncHttpxClient
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_graph import GraphBuilder, StepContext, reduce_list_append

from llmd_agents.client import current_scope
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background
from llmd_agents_pydantic_ai import ProgramHints, hinted


def test_a_graph_of_agents() -> None:
    engines = [EngineServer(load_profile("tiny"), time_scale=1000.0) for _ in range(2)]
    with in_background(engines[0]) as one, in_background(engines[1]) as other:
        config = RouterConfig(engines=(EngineConfig(url=one), EngineConfig(url=other)))
        with in_background(Router(config)) as router:
            program_id = asyncio.run(research(f"{router}/v1"))
            seen: Any = httpx.get(f"{router}/v1/agent/programs/{program_id}", timeout=10).json()
    assert [step["agent"] for step in seen["steps"]] == ["planner", "reader", "reader", "reader", "writer"]
    assert [
        (fork["name"], fork["width"], len(fork["branches"]), fork["joined"]) for fork in seen["forks"]
    ] == [("papers", 3, 3, True)]
    assert sorted(map(tuple, seen["edges"])) == [
        ("s1", "s2"),
        ("s1", "s3"),
        ("s1", "s4"),
        ("s2", "s5"),
        ("s3", "s5"),
        ("s4", "s5"),
    ]
    assert seen["status"] == "ok"


async def research(base_url: str) -> str:
    """Runs a graph of agents; returns the id of its program."""
    async with DefaultAsyncHttpxClient() as http_client:
        provider = OpenAIProvider(base_url=base_url, api_key="none", http_client=http_client)
        model = OpenAIChatModel("any", provider=provider, settings={"max_tokens": 8})
        agents = {
            name: Agent(model, name=name, capabilities=[ProgramHints()])
            for name in ("planner", "reader", "writer")
        }
        builder = GraphBuilder(name="research", output_type=str)
        ids: set[str] = set()

        @builder.step
        async def plan(ctx: StepContext) -> list[str]:
            await agents["planner"].run("Which papers?")
            return ["one", "two", "three"]

        @builder.step
        async def read(ctx: StepContext) -> str:
            scope = current_scope()
            assert scope is not None
            ids.add(scope.run.id)
            return (await agents["reader"].run(f"Read {ctx.inputs}.")).output

        @builder.step
        async def write(ctx: StepContext) -> str:
            return (await agents["writer"].run("Write.")).output

        collect = builder.join(reduce_list_append, initial_factory=list[str])
        edge = builder.edge_from
        builder.add(
            edge(builder.start_node).to(plan),
            edge(plan).map(fork_id="papers").to(read),
            edge(read).to(collect),
            edge(collect).to(write),
            edge(write).to(builder.end_node),
        )
        await hinted(builder.build()).run()
        return ids.pop()
