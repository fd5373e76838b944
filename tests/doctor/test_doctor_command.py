"""`llmd-agents doctor` as a user runs it."""

import json
import os
import signal
import subprocess
import sys

from tests.doctor.awkward import awkward
from tests.stack.servers import stack

COMMAND = [sys.executable, "-m", "llmd_agents", "doctor"]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"} | environment
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=env, check=False
    )


def test_a_table_for_people() -> None:
    with stack(1) as servers:
        done = run("--base-url", f"{servers.router}/v1")
    assert done.returncode == 0
    assert done.stderr.startswith("About 15 model calls (at most 26)")
    assert "x-llmd-hints                  honoured  accepted program, step" in done.stdout
    assert "→ Hints are read here: instrument(client) is all it takes." in done.stdout
    assert "14 model calls; " in done.stdout


def test_json_for_programs_and_the_key_from_the_environment() -> None:
    with awkward(key="secret-key") as (_, url):
        done = run("--base-url", url, "--json", "--model", "m", OPENAI_API_KEY="secret-key")
        refused = run("--base-url", url, "--api-key", "wrong")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert {"base_url", "model", "program", "facts", "findings", "advice", "calls"} < set(told)
    assert {one["verdict"] for one in told["findings"]} <= {
        "honoured", "accepted", "ignored", "refused", "absent", "unknown",
    }  # fmt: skip
    assert "secret-key" not in done.stdout + done.stderr
    assert refused.returncode == 1
    assert "refuses the key: 401 who are you?" in refused.stderr


def test_exit_codes_and_messages() -> None:
    dead = run("--base-url", "http://127.0.0.1:9/v1")
    assert dead.returncode == 1
    assert dead.stderr.splitlines()[-1].startswith("llmd-agents: http://127.0.0.1:9/v1 does not answer: ")
    assert dead.stdout == ""
    no_url = run("--base-url", "localhost")
    assert (no_url.returncode, no_url.stdout) == (2, "")
    assert "must be like http://host:8000/v1, not 'localhost'" in no_url.stderr
    assert run().returncode == run("--base-url", "http://x", "--timeout", "0").returncode == 2


def test_help() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("--base-url", "OPENAI_API_KEY", "--json", "paid provider"))


def test_ctrl_c() -> None:
    with awkward(sleeps="/chat/completions") as (server, url):
        process = subprocess.Popen(
            [*COMMAND, "--base-url", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        assert process.stderr.readline().startswith("About")
        while "POST /v1/chat/completions" not in server.paths:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
