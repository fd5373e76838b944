"""The command as a user runs it: messages, exit codes, a clean stop."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.stack.servers import stack


def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmd_agents", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_version_and_help() -> None:
    assert re.fullmatch(r"llmd-agents \d+\.\d+\.\d+\n", run("--version").stdout)
    shown = run("--help").stdout
    assert all(command in shown for command in ("router", "engine", "replay", "demo"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("router",), "command line: engines: is required"),
        (("router", "--engine", "ftp://x"), "engines.0.url: must begin with http:// or https://"),
        (("router", "--config", "missing.yaml"), "missing.yaml: No such file or directory"),
        (
            ("engine", "--profile", "warp"),
            "profile 'warp' is neither the path of a .toml file nor one of h100-8b",
        ),
        (("engine", "--block-size", "0"), "block_size must be an integer of at least 1, not 0"),
        (("replay", "missing.json"), "missing.json: No such file or directory"),
        (("replay", "--hints", "maybe", "x.json"), "--hints: on or off, not 'maybe'"),
        (("demo", "--program", "chess"), "--program: 'chess' is none of tree-of-thought, react, swarm"),
        (
            ("demo", "--time-scale", "20", "--pressure", "2", "--seeds", "3"),
            "--time-scale: runs seed 1 without background, and so takes no --pressure or --seeds",
        ),
        (("demo", "--time-scale", "20", "--quick"), "takes no --quick"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_port_in_use() -> None:
    with stack(1) as servers:
        port = servers.router.rsplit(":", 1)[1]
        done = run("engine", "--port", port)
    assert done.returncode == 2
    assert "cannot listen: Address already in use" in done.stderr


@pytest.mark.parametrize(
    "command", [("engine", "--port", "0"), ("router", "--port", "0", "--engine", "http://127.0.0.1:9")]
)
def test_servers_say_where_they_listen_and_stop_on_ctrl_c(command: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmd_agents", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip().removeprefix(f"{command[0]} listening on ")
    assert httpx.get(f"{url}/health").status_code == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_replay_against_a_running_router(coding_sessions: Path) -> None:
    trace = str(coding_sessions / "trace_0297.json")
    with stack(2, time_scale=1000) as servers:
        refused = run("replay", trace, "--base-url", f"{servers.router}/v1", "--speed", "100000")
    # The tiny engines' cache is smaller than the prompts, and the command says so.
    assert refused.returncode == 1
    assert "calls failed; the first" in refused.stderr
    assert "context length is 8192 tokens" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_replay_stops_on_ctrl_c_and_leaves_nothing_behind(coding_sessions: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "llmd_agents",
            "replay",
            str(coding_sessions / "trace_0297.json"),
            "--speed",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:  # the engine and the router
        assert process.poll() is None
        time.sleep(0.05)
    servers = children.read_text().split()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    # One that was only just being started ends by itself, as soon as it finds its standard input closed.
    deadline = time.monotonic() + 20
    while left := [pid for pid in servers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_replay_when_nobody_listens(coding_sessions: Path) -> None:
    done = run("replay", str(coding_sessions / "trace_0297.json"), "--base-url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "a server does not answer" in done.stderr


def test_replay_prints_a_table(coding_sessions: Path) -> None:
    done = run("replay", str(coding_sessions / "trace_0297.json"), "--speed", "100000")
    assert done.returncode == 0
    assert "of the prompt tokens were cached" in done.stdout
    assert "engine 0" in done.stdout


def test_demo() -> None:
    done = run("demo", "--quick", "--program", "react", "--pressure", "0.2", timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Background conversations take 0.2 times what the servers can cache" in done.stdout
    for arm in ("round robin", "prefix-aware", "strongest, no hints", "with hints"):
        assert re.search(rf"{arm} +[\d.,]+ +[\d,]+ +[\d,]+ +[\d,]+ +", done.stdout)
    assert re.search(r"^react: done (no sooner|\d+% (sooner|later)) with hints", done.stdout, re.MULTILINE)
    assert "run no model" in done.stdout
    assert not done.stderr


def test_demo_as_json() -> None:
    done = run("demo", "--seeds", "1", "--program", "swarm", "--pressure", "0.1", "--json", timeout=100)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["programs"]
    assert (found["name"], found["pressure"], found["seeds"]) == ("swarm", 0.1, 1)
    assert found["hinted"]["directives"]["release"]["applied"] > 0


def test_demo_stops_on_ctrl_c_and_leaves_nothing_behind() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmd_agents", "demo", "--quick"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (workers := _busy(children)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    # The one that watches over resources ends itself when it finds the command gone.
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        time.sleep(0.05)


def _busy(children: Path) -> list[str]:
    """Returns the children, once one of them has worked for a second."""
    pids = children.read_text().split()
    used = [int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11]) for pid in pids]
    return pids if any(ticks > 100 for ticks in used) else []
