"""`llmd-agents router` with the options that say what hints may do and what is recorded."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx

from tests.stack.servers import stack


def test_observing_and_recording_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with stack(1) as servers:
        command = [sys.executable, "-m", "llmd_agents", "router", "--engine", servers.engines[0]]
        command += ["--port", "0", "--observe-only", "--record", str(path), "--until-stdin-closes"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            url = process.stdout.readline().decode().rsplit(" ", 1)[1].strip()
            assert httpx.get(f"{url}/v1/agent/mode").json() == {"mode": "observe"}
            value = {"model": "m", "messages": [{"role": "user", "content": "Zanzibar"}]}
            assert httpx.post(f"{url}/v1/chat/completions", json=value, timeout=30).status_code == 200
            process.stdin.close()
            assert process.wait(20) == 0
    data = path.read_bytes()
    assert json.loads(data.splitlines()[0])["is"] == "runtime"
    assert b'"is":"finished"' in data
    assert b"Zanzibar" not in data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_record_that_cannot_be_opened() -> None:
    command = [sys.executable, "-m", "llmd_agents", "router", "--engine", "http://x", "--record", os.sep]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "llmd-agents: record: /: Is a directory\n"
