"""The example runs as a user would run it."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from llmd_agents import program
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.engine.script import read_scripts
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background
from llmd_agents.testing import Line

from .app import asks, edges, served

EXAMPLE = Path(__file__).parents[3] / "examples" / "pydantic_ai_delegation.py"


def command(base_url: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), base_url],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


EDGES = Counter(
    [
        ("editor", "historian"),
        ("editor", "geographer"),
        ("historian", "historian"),
        ("historian", "editor"),
        ("geographer", "editor"),
        ("editor", "checker"),
        ("checker", "editor"),
    ]
)


def test_with_a_scripted_model() -> None:
    with served(
        asks("editor", "ask_historian", "ask_geographer", place="Lundy"),
        asks("historian", "archive", place="Lundy"),
        asks("editor", "check", text="Lundy"),
        *(Line("fine", agent=agent) for agent in ("historian", "geographer", "checker", "editor")),
    ) as server:
        assert "fine" in command(server.base_url)
        assert edges(server.graph("editor")) == EDGES


def test_with_router_and_engine() -> None:
    scripts = read_scripts(EXAMPLE.with_suffix(".toml"))
    engine = EngineServer(load_profile("tiny"), time_scale=1000.0, scripts=scripts)
    with ExitStack() as running:
        engines = (EngineConfig(url=running.enter_context(in_background(engine))),)
        router = running.enter_context(in_background(Router(RouterConfig(engines=engines))))
        program_id = asyncio.run(run_in_a_program(f"{router}/v1"))
        seen: Any = httpx.get(f"{router}/v1/agent/programs/{program_id}", timeout=10).json()
    assert seen["status"] == "ok"
    names = {step["id"]: step["agent"] for step in seen["steps"]}
    assert len(names) == 7
    assert Counter((names[one], names[other]) for one, other in seen["edges"]) == EDGES
    assert Counter((tool["tool"], tool["outcome"]) for tool in seen["tools"]) == {
        (name, "ok"): 1 for name in ("ask_historian", "ask_geographer", "archive", "check")
    }


async def run_in_a_program(base_url: str) -> str:
    """Returns its id."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    async with program("guide") as run:
        await module.main(base_url)
    return run.id
