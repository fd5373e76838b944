"""Router and engines see the program that a graph is."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_agents.testing import RecordingServer
from tests.recorded import model_of, say, watched
from tests.stack import stack

EXAMPLE = Path(__file__).parents[3] / "examples" / "langgraph_map_reduce.py"


def finished(url: str) -> Any:
    """Returns what the router saw of a program: events reach it a little later than calls."""
    for _ in range(1000):
        view = httpx.get(url, timeout=10).raise_for_status().json()
        if view["status"] != "running":
            return view
        time.sleep(0.01)
    raise TimeoutError(url)


def test_the_router_sees_the_graph_and_answers() -> None:
    with stack() as base_url, model_of(base_url) as model:
        fork = {"a": say(model, "a"), "b": say(model, "b") | say(model, "c")}
        answer: Any = (say(model, "plan") | fork | say(model, "end") | model).invoke("", watched())
        note = answer.response_metadata["llmd_agents"]
        view = finished(f"{base_url}/agent/programs/{note['program']}")
    assert note["ack"]["accepted"]
    assert not note["ack"].keys() & {"rejected", "clipped"}
    assert len(view["steps"]) == 6
    assert [(one["width"], one["joined"]) for one in view["forks"]] == [(2, True)]
    assert Counter(later for _, later in view["edges"]) == {"s2": 1, "s3": 1, "s4": 1, "s5": 2, "s6": 1}


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_the_example(server: RecordingServer, how: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *([server.base_url] if how == "argument" else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_BASE_URL": server.base_url, "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert done.stdout.startswith("4 summaries, report: ")
    graph = server.graph("coast-report")
    graph.assert_shape("plan > fork(4: summarize) > write")
    graph.assert_forked(4, name="summarize")


def test_the_example_on_the_stack() -> None:
    with stack() as base_url:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), base_url],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 summaries")
