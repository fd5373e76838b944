"""Every example runs as a user would run it."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmd_agents.bench.scaled_time import scaled_time
from llmd_agents.engine import EngineServer, load_profile
from tests.stack.servers import FAST, Stack, stack

FOLDER = Path(__file__).parents[1] / "examples"
WAITING = ("pipeline", "react")
"""Examples whose tools take as long as real ones: their clock is made to run faster."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack([EngineServer(load_profile("l40s-8b"), time_scale=FAST) for _ in range(2)]) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "said"), [("fork_and_join", "3 drafts"), ("swarm", " "), ("tree_of_thought", " ")]
)
def test_example(servers: Stack, name: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), f"{servers.router}/v1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert said in done.stdout


@pytest.mark.parametrize("name", WAITING)
def test_example_with_slow_tools(servers: Stack, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with asyncio.Runner(loop_factory=scaled_time(50)) as runner:
        runner.run(module.main(f"{servers.router}/v1"))
    assert " " in capsys.readouterr().out


def test_all_examples_are_tested() -> None:
    tested = {"fork_and_join", "swarm", "tree_of_thought", *WAITING}
    assert {path.stem for path in FOLDER.glob("*.py")} == tested
