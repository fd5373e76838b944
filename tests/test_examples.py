"""Every example runs as a user would run it, and its program is the one that its docstring promises."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError

from llmd_agents import Run, program
from llmd_agents.bench.scaled_time import scaled_time
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.testing import Failure, Line, Reply, ToolCall, recording_server
from tests.stack.servers import FAST, Stack, stack, wait_for

FOLDER = Path(__file__).parents[1] / "examples"
TIME_SCALES = {
    "fork_and_join": 1,
    "tree_of_thought": 1,
    "swarm_grading": 1,
    "react_tools": 50,  # their tools take as long as real ones
    "investment_pipeline": 50,
}
INSTANT = [name for name, scale in TIME_SCALES.items() if scale == 1]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack([EngineServer(load_profile("l40s-8b"), time_scale=FAST) for _ in range(2)]) as running:
        yield running


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run_main(name: str, base_url: str) -> Run:
    """Runs an example's `main`; returns the run that it made."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runs: list[Run] = []

    def noted(workflow: str, **options: Any) -> Run:
        runs.append(program(workflow, **options))
        return runs[-1]

    module.program = noted
    with asyncio.Runner(loop_factory=scaled_time(TIME_SCALES[name])) as runner:
        runner.run(module.main(base_url))
    (run,) = runs
    return run


def view_of(servers: Stack, name: str) -> Any:
    """Runs an example; returns what the router saw of it, once all its hints are found to have been taken."""
    run = run_main(name, f"{servers.router}/v1")
    acks = [step.ack for step in run.history.steps]
    assert all(ack is not None and ack.accepted for ack in acks)
    assert not [refused for ack in acks if ack is not None for refused in (*ack.rejected, *ack.clipped)]
    wait_for(lambda: servers.program(run.id)["status"] != "running")
    view = servers.program(run.id)
    assert view["status"] == "ok"
    assert {step["status"] for step in view["steps"]} == {"finished"}
    assert len(view["steps"]) == len(run.history.steps)
    return view


def edges(view: Any) -> Counter[str]:
    """Returns how many edges lead to each step."""
    return Counter(later for _, later in view["edges"])


def forks(view: Any) -> list[tuple[str, int, int, bool]]:
    """Returns each fork's name, width, number of branches that began, and whether it was joined."""
    return [(fork["name"], fork["width"], len(fork["branches"]), fork["joined"]) for fork in view["forks"]]


def outcomes(view: Any) -> Counter[tuple[str, str]]:
    return Counter((tool["tool"], tool["outcome"]) for tool in view["tools"])


@pytest.mark.parametrize("name", INSTANT)
def test_as_a_command(servers: Stack, name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), f"{servers.router}/v1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert done.stdout.strip()


def test_fork_and_join(servers: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of(servers, "fork_and_join")
    assert len(view["steps"]) == 5
    assert forks(view) == [("draft", 3, 3, True)]
    assert edges(view) == {"s2": 1, "s3": 1, "s4": 1, "s5": 3}
    assert outcomes(view) == {("look_up", "ok"): 1}
    assert f"{view['id']}: 3 drafts, chose: " in capsys.readouterr().out


def test_tree_of_thought(servers: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of(servers, "tree_of_thought")
    kinds = Counter(step["kind"] for step in view["steps"])
    assert kinds == {"plan": 1, "reason": 10, "evaluate": 1, "synthesize": 1}
    assert forks(view) == [("think", 8, 8, True), ("expand", 2, 2, True)]
    assert edges(view) == {**{f"s{n}": 1 for n in range(2, 10)}, "s10": 8, "s11": 1, "s12": 1, "s13": 2}
    assert "13 steps, 0 tool calls, 2 forks" in capsys.readouterr().out


def test_swarm_grading(servers: Stack) -> None:
    view = view_of(servers, "swarm_grading")
    agents = Counter((step["kind"], step["agent"]) for step in view["steps"])
    assert agents == {
        ("plan", "coordinator"): 1,
        ("evaluate", "grader"): 50,
        ("synthesize", "coordinator"): 1,
    }
    assert forks(view) == [("grade", 50, 50, True)]
    assert edges(view) == {**{f"s{n}": 1 for n in range(2, 52)}, "s52": 50}


def test_react_tools(servers: Stack) -> None:
    view = view_of(servers, "react_tools")
    steps = view["steps"]
    assert [step["kind"] for step in steps] == ["act"] * 12 + ["synthesize"]
    turns = [step["loop"] for step in steps]
    assert [turn and (turn["iteration"], turn["limit"]) for turn in turns] == [
        *((number, 12) for number in range(12)),
        None,
    ]
    assert len({turn["id"] for turn in turns if turn}) == 1
    assert {step["branch"] for step in steps} == {"main"}
    assert outcomes(view) == {("search", "ok"): 4, ("open_page", "ok"): 4, ("run_query", "ok"): 4}
    assert not view["forks"]


def test_investment_pipeline(servers: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of(servers, "investment_pipeline")
    agents = [step["agent"] for step in view["steps"]]
    assert agents == ["researcher"] * 5 + ["analyst"] * 4 + ["writer", "researcher", "writer"]
    assert outcomes(view) == {("fetch", "ok"): 4, ("run_model", "ok"): 3}
    # Asked again, the researcher goes on with its own conversation.
    assert view["steps"][10]["cached_tokens"] > 0.9 * view["steps"][4]["prompt_tokens"]
    assert "12 steps, 7 tool calls" in capsys.readouterr().out


def test_all_examples_are_tested() -> None:
    # Those that need a framework run in the tests of its adapter.
    tests = (FOLDER.parent / "integrations").glob("*/tests/**/*.py")
    adapters = "".join(path.read_text() for path in tests)
    others = {path.stem for path in FOLDER.glob("*.py")} - set(TIME_SCALES)
    assert [name for name in sorted(others) if name not in adapters] == []


# Servers of other kinds know nothing of scripts, and models do as they like.


def test_a_model_that_answers_at_once() -> None:
    with recording_server(Line("Raise the north wall.", kind="act")) as server:
        run_main("react_tools", server.base_url)
        server.graph("react-tools").assert_shape("loop(act)")


def test_a_model_that_asks_for_what_there_is_not() -> None:
    asked = [ToolCall("search", {"query": "walls"}), ToolCall("connector_7", {"any": "thing"})]
    with recording_server(Reply(calls=asked), "All of them.") as server:
        run_main("react_tools", server.base_url)
        messages = server.calls[1].json["messages"]
    found, refused = (message["content"] for message in messages if message["role"] == "tool")
    assert found.startswith("Gauge ")
    assert refused == "This tool is out of order."


@pytest.mark.parametrize(("best", "expanded"), [([3, 99, -1], {"people"}), ([], {"cost", "risk"})])
def test_a_judge_that_cannot_count(best: list[int], expanded: set[str]) -> None:
    lines = (
        Line("a plan", kind="plan"),
        Line("a thought", kind="reason", times=8 + len(expanded)),
        Line({"best": best, "rationale": "because"}, kind="evaluate"),
        Line("an answer", kind="synthesize"),
    )
    with recording_server(*lines) as server:
        run_main("tree_of_thought", server.base_url)
        worked_out = [call.json["messages"] for call in server.calls if call.last_text.startswith("Work")]
        server.graph("tree-of-thought").assert_forked(len(expanded), name="expand")
    angles = {messages[3]["content"].rsplit(" ", 1)[1].rstrip(".") for messages in worked_out}
    assert angles == expanded


def test_a_grader_that_fails_ends_the_swarm() -> None:
    lines = (
        Line("a plan", kind="plan"),
        Line(Failure(400, "too long"), kind="evaluate", says="Grade this.\nessay 7 "),
        Line({"score": 1, "rationale": "none"}, kind="evaluate", times=None),
    )
    with recording_server(*lines) as server:
        with pytest.raises(BadRequestError, match="too long"):
            run_main("swarm_grading", server.base_url)
        assert server.graph("swarm-grading").outcome == "error"
