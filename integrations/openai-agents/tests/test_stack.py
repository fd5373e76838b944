"""The example, run as a user would run it, and what a real router sees of it in front of real engines."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_agents.client import Scope, begin_scope
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.engine.script import read_scripts
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background
from llmd_agents.testing import Reply, ToolCall, recording_server
from llmd_agents_openai_agents import processor

from .told import edges

EXAMPLE = Path(__file__).parents[3] / "examples" / "openai_agents_handoff.py"


@pytest.fixture
def router() -> Iterator[str]:
    scripts = read_scripts(EXAMPLE.with_suffix(".toml"))
    engine = EngineServer(load_profile("l40s-8b"), time_scale=1000.0, scripts=scripts)
    with in_background(engine) as engine_url:
        engines = (EngineConfig(url=engine_url),)
        with in_background(Router(RouterConfig(engines=engines, health_interval_s=0.05))) as url:
            yield url


def finished(router: str, program_id: str) -> Any:
    """Returns what the router saw of a program."""
    for _ in range(1000):
        view = httpx.get(f"{router}/v1/agent/programs/{program_id}", timeout=10).raise_for_status().json()
        if view["status"] != "running":
            return view
        time.sleep(0.01)
    raise TimeoutError(f"{program_id} has not finished")


def test_what_the_router_sees(
    router: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[Scope] = []

    def noted(name: str, **more: Any) -> Scope:
        begun.append(begin_scope(name, **more))
        return begun[-1]

    monkeypatch.setattr(processor, "begin_scope", noted)
    monkeypatch.delenv("MODEL", raising=False)
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asyncio.run(module.main(f"{router}/v1"))
    assert capsys.readouterr().out.startswith("writer: ")
    (scope,) = begun
    view = finished(router, scope.run.id)
    assert (view["name"], view["status"]) == ("invoice-question", "ok")
    assert [(step["agent"], step["branch"]) for step in view["steps"]] == [
        ("triage", "main"),
        ("billing", "main"),
        ("billing", "main"),
        ("writer", "main"),
    ]
    assert view["edges"] == [["s1", "s2"], ["s2", "s3"], ["s3", "s4"]]
    assert sorted((tool["tool"], tool["outcome"]) for tool in view["tools"]) == [
        ("find_invoice", "ok"),
        ("list_payments", "ok"),
        ("transfer_to_billing", "ok"),
        ("transfer_to_writer", "ok"),
    ]


def test_as_a_command_with_a_model_of_another_kind() -> None:
    environment = {name: os.environ[name] for name in os.environ if name not in ("MODEL", "OPENAI_API_KEY")}
    asked = [ToolCall("transfer_to_billing", {})], [ToolCall("find_invoice", {"number": "1"})]
    with recording_server(*(Reply(calls=calls) for calls in asked), "You were not.") as server:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), server.base_url],
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "billing: You were not.\n", "")
        assert edges(server.graph("invoice-question")) == {"triage1 > billing1", "billing1 > billing2"}
