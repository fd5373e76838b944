"""The harness runs real engines, in this process and as servers, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import harness
from harness.counters import Counters
from harness.engines import EngineFailed, EngineOptions, cached_tokens, engines
from harness.in_process import in_process

HARNESS = Path(harness.__file__).parent

PROMPT = [{"role": "user", "content": "Mabada kelo vuri. " * 40}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "kelo"}'}}
TOOL_CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "What is kelo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a word"},
]


def storage(folder: Path) -> dict[str, Any]:
    """vLLM's own connector to a folder."""
    extra = {"shared_storage_path": str(folder / "storage")}
    return {"kv_connector": "ExampleConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def test_engines_in_this_process_one_after_the_other(tiny_model: Path, tmp_path: Path) -> None:
    for config in (storage(tmp_path), None):
        with in_process(tiny_model, kv_transfer_config=config) as engine:
            first, again = engine.generate(PROMPT), engine.generate(PROMPT)
            assert len(first.output) == 8
            assert first.prompt == again.prompt
            assert first.output == again.output
            assert first.cached_tokens == 0
            assert again.cached_tokens == (len(first.prompt) - 1) // 32 * 32 > 0
            assert type(engine.connector).__name__ == ("ExampleConnector" if config else "NoneType")
            assert engine.block_pool.get_num_free_blocks() == 159


def test_two_servers_count_tokens_and_end_with_their_block(tiny_model: Path, tmp_path: Path) -> None:
    options = [EngineOptions(), EngineOptions(kv_transfer_config=storage(tmp_path))]
    with engines(tiny_model, tmp_path, *options) as (plain, stores):
        before = plain.counters()
        first, again = plain.chat(PROMPT), plain.chat(PROMPT)
        prompt_tokens = first["usage"]["prompt_tokens"]
        assert cached_tokens(first) == 0
        assert cached_tokens(again) == (prompt_tokens - 1) // 32 * 32
        assert plain.counters() - before == Counters(
            prompt_tokens=2 * prompt_tokens,
            generation_tokens=16,
            cached_by_source={"device": cached_tokens(again)},
            device_queries=2 * prompt_tokens,
            device_hits=cached_tokens(again),
            requests=2,
        )
        assert stores.counters().requests == 0
        groups = [engine.process.pid for engine in (plain, stores)]
        assert stores.chat(TOOL_CALLS)["usage"]["completion_tokens"] == 8
    for engine in (plain, stores):
        assert engine.process.returncode is not None
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{engine.url}/health")
    assert not [pid for pid in groups if Path(f"/proc/{pid}").exists()]


def test_an_engine_that_does_not_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    options = EngineOptions(flags=["--no-such-option"])
    with pytest.raises(EngineFailed, match="--no-such-option"), engines(tiny_model, tmp_path, options):
        pass


@pytest.mark.parametrize("said", [b"", b"kill"])
def test_what_a_command_started_ends_with_whoever_started_it(said: bytes) -> None:
    # One that is to be killed does not end when asked to.
    script = "import signal as g, subprocess as s; "
    script += "g.signal(g.SIGTERM, g.SIG_IGN); " if said else ""
    script += "p = s.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    command = [sys.executable, "-m", "harness.guard", sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HARNESS.parent
    ) as guard:
        assert guard.stdout is not None
        assert guard.stdin is not None
        grandchild = int(guard.stdout.readline())
        assert Path(f"/proc/{grandchild}").exists()
        guard.stdin.write(said)
        guard.stdin.close()
        guard.wait(30)
    state = Path(f"/proc/{grandchild}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
