"""The example, run as a user would run it, and what a real router sees in front of real engines."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mcp.client.stdio  # noqa: F401  (keeps the standard error that it finds: not one of a test's own)
import pytest

from llmd_agents.client import Run, program
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background
from llmd_agents.testing import recording_server
from tests.servers import KINDS
from tests.test_round_trip import connected, research

EXAMPLE = Path(__file__).parents[3] / "examples" / "mcp_tools.py"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def router() -> Iterator[str]:
    engine = EngineServer(load_profile("l40s-8b"), time_scale=1000.0)
    with in_background(engine) as engine_url:
        settings = RouterConfig(engines=(EngineConfig(url=engine_url),), health_interval_s=0.05)
        with in_background(Router(settings)) as url:
            yield url


def run_main(base_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the example's `main`; returns the run that it made."""
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runs: list[Run] = []

    def noted(name: str) -> Run:
        runs.append(program(name))
        return runs[-1]

    monkeypatch.setattr(module, "program", noted)
    asyncio.run(module.main(base_url))
    (run,) = runs
    return run


def finished(router: str, program_id: str) -> Any:
    """Returns what the router saw of a program."""
    for _ in range(1000):
        view = httpx.get(f"{router}/v1/agent/programs/{program_id}", timeout=10).raise_for_status().json()
        if view["status"] != "running":
            return view
        time.sleep(0.01)
    raise TimeoutError(f"{program_id} has not finished")


def test_what_the_router_sees(
    router: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = run_main(f"{router}/v1", monkeypatch)
    assert f"{run.id}: 2 tools, answer: " in capfd.readouterr().out
    view = finished(router, run.id)
    assert view["status"] == "ok"
    assert {step["status"] for step in view["steps"]} == {"finished"}
    question, notes, gist, answer = (step["id"] for step in view["steps"])
    edges = [(question, notes), (notes, gist), (gist, answer)]
    assert sorted(map(tuple, view["edges"])) == sorted(edges)
    assert sorted((fork["name"], fork["width"], fork["joined"]) for fork in view["forks"]) == [
        ("summarize", 1, True),
        ("tide_table", 1, False),  # which asks no model, so that nothing waits for it
    ]
    assert sorted((tool["tool"], tool["outcome"]) for tool in view["tools"]) == [
        ("summarize", "ok"),
        ("tide_table", "ok"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_goes_on_in_tools(router: str, kind: str) -> None:
    with connected(kind, kind, "http", f"{router}/v1") as session:
        program_id = asyncio.run(research(session, f"{router}/v1"))
    view = finished(router, program_id)
    assert view["status"] == "ok"
    kinds = {step["id"]: step["kind"] or "side" for step in view["steps"]}
    assert Counter((kinds[one], kinds[other]) for one, other in view["edges"]) == {
        ("plan", "read"): 1,
        ("read", "shorten"): 1,
        ("shorten", "split"): 1,
        ("split", "side"): 2,
        ("side", "write"): 2,
    }
    assert [(tool["tool"], tool["outcome"]) for tool in view["tools"]] == [
        ("summarize", "ok"),
        ("compare", "ok"),
        ("search", "ok"),
    ]


def test_the_graph_that_its_docstring_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording_server() as recording:
        run_main(recording.base_url, monkeypatch)
        graph = recording.graph("harbour-question")
    named = {
        step.id: name for step, name in zip(graph.steps, ["question", "notes", "gist", "answer"], strict=True)
    }
    graph.labelled(lambda step: named[step.id]).assert_edges(
        {"question": ["notes"], "notes": ["gist"], "gist": ["answer"]}
    )
    graph.assert_tools({"summarize": 1, "tide_table": 1})


def test_as_a_command(router: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), f"{router}/v1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "2 tools, answer: " in done.stdout
