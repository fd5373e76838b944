"""Options of `llmd-agents engine`."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llmd_agents.engine.script import SCRIPT_HEADER, packaged_scripts
from llmd_agents.hints import EngineKv
from tests.stack.servers import engine_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dispatch", "random"), "--dispatch: fifo or cached-first, not 'random'"),
        (("--eviction", "fifo"), "--eviction: next-use or lru, not 'fifo'"),
        (("--host-blocks", "-1"), "host_blocks must be an integer of at least 0, not -1"),
        (("--scripts", "missing.toml"), "missing.toml: No such file or directory"),
        (("--scripts", "/"), "/: Is a directory"),
        (("--scripts", __file__), "test_command.py: not TOML"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "llmd_agents", "engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_options_reach_the_engine() -> None:
    options = ("--profile", "tiny", "--host-blocks", "10", "--storage-blocks", "20")
    with engine_process(*options, "--dispatch", "cached-first", "--retention-budget", "0.25") as (_, url):
        kv = EngineKv.model_validate_json(httpx.get(f"{url}/v1/agent/kv", timeout=10).content)
    assert kv.tiers == {"device": 16_384, "host": 160, "storage": 320}
    assert kv.budget == 4096


def test_scripts_of_files_come_before_packaged_ones(tmp_path: Path) -> None:
    mine, react = tmp_path / "mine.toml", tmp_path / "react.toml"
    mine.write_text("[short]\nreplies = [{ tokens = 3 }]")
    react.write_text("[turn]\nreplies = [{ tokens = 5 }]")
    hello = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    options = ("--profile", "tiny", "--time-scale", "50", "--scripts", str(mine), "--scripts", str(react))
    said = {}
    with engine_process(*options) as (_, url):
        for name in ("mine/short", "react/turn", "swarm/report"):
            reply = httpx.post(
                f"{url}/v1/chat/completions", json=hello, headers={SCRIPT_HEADER: name}, timeout=10
            )
            said[name] = reply.json()["usage"]["completion_tokens"]
    packaged = packaged_scripts()["swarm/report"][0].tokens
    assert said == {"mine/short": 3, "react/turn": 5, "swarm/report": packaged}
