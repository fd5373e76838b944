"""Options of `llmd-agents engine`."""

import subprocess
import sys

import httpx
import pytest

from llmd_agents.hints import EngineKv
from tests.stack.servers import engine_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dispatch", "random"), "--dispatch: fifo or cached-first, not 'random'"),
        (("--eviction", "fifo"), "--eviction: next-use or lru, not 'fifo'"),
        (("--host-blocks", "-1"), "host_blocks must be an integer of at least 0, not -1"),
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
