"""`llmd-agents hints …` as people use it: what it prints, what it refuses and with which exit code."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from llmd_agents.cli import app
from llmd_agents.hints import decode_hints

VECTORS = Path(__file__).parent / "vectors"
SMALL = '{"program": {"id": "p1", "priority": 70}, "step": {"id": "s1"}}'


def run(*arguments: str, stdin: str | bytes = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["hints", *arguments], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def test_the_schema_is_one_valid_document() -> None:
    code, printed, _ = run("schema")
    document = json.loads(printed)
    assert code == 0
    Draft202012Validator.check_schema(document)
    assert {"Hints", "Ack", "EventBatch"} <= document["$defs"].keys()


def test_encode_prints_header_lines() -> None:
    code, printed, said = run("encode", stdin=SMALL)
    assert (code, said) == (0, "")
    assert printed == 'x-llmd-hints: v=1, program="p1";priority=70, step="s1"\n'


def test_encode_prints_what_dialects_add(tmp_path: Path) -> None:
    (tmp_path / "hints.json").write_text(SMALL)
    code, printed, _ = run(
        "encode", str(tmp_path / "hints.json"), "--dialect", "llm_d", "--dialect", "dynamo"
    )
    head, _, body = printed.partition("\n\n")
    assert code == 0
    assert head.splitlines()[1:3] == ["x-session-id: p1/main", "x-llm-d-inference-fairness-id: p1"]
    assert json.loads(body) == {"nvext": {"agent_hints": {"priority": 20}}}


def test_encode_prints_options_that_a_shell_hands_to_curl(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "It's  $HOME\n`ls`"}]}
    (tmp_path / "call.json").write_text(json.dumps(body))
    hints = json.dumps({"program": {"id": "p1", "name": "it's $HOME"}, "step": {"id": "s1"}})
    code, printed, _ = run(
        "encode", "--curl", "--dialect", "sglang", "--body", str(tmp_path / "call.json"), stdin=hints
    )
    assert code == 0
    assert printed.count("\n") == 1
    options = shlex.split(printed)
    assert options[0::2] == ["-H", "-H", "-d"]
    assert options[1] == 'x-llmd-hints: v=1, program="p1";name="it\'s $HOME", step="s1"'
    assert json.loads(options[5]) == {**body, "agent_hints": {"workflow_id": "p1", "step_id": "s1"}}


def test_a_misspelt_member_is_pointed_out_and_refuses_nothing() -> None:
    hints = '{"program": {"id": "p"}, "step": {"id": "s"}, "segments": [%s], "forcast": 1}' % (
        '{"type": "scratch", "digest": "%s", "size": 1, "lifetme": "step"}' % ("00" * 16)
    )
    code, printed, said = run("encode", stdin=hints)
    assert code == 0
    assert printed.startswith("x-llmd-hints: ")
    assert said.splitlines() == [
        "llmd-agents: forcast: is not known and goes into no header",
        "llmd-agents: segments.0.lifetme: is not known and goes into no header",
    ]


@pytest.mark.parametrize(
    ("stdin", "messages"),
    [
        ("", ["hints: Invalid JSON"]),
        ("[]", ["hints: Input should be an object"]),
        (b"\xff\x00", ["hints: Invalid JSON"]),
        ("[" * 100_000, ["hints: Invalid JSON: recursion limit exceeded"]),
        (
            '{"program": {"id": "p 1", "priority": 101}, "step": {}}',
            ["program.id: ", "program.priority: Input should be less than", "step.id: Field required"],
        ),
        (
            '{"program": {"id": "p", "name": "%s"}, "step": {"id": "s", "kind": "%s", "agent": "%s"}}'
            % (("é" * 128,) * 3),
            ["hints: the hints need "],
        ),
    ],
)
def test_encode_refuses_and_names_the_field(stdin: str | bytes, messages: list[str]) -> None:
    code, printed, said = run("encode", stdin=stdin)
    lines = said.splitlines()
    assert (code, printed) == (1, "")
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert line.startswith(f"llmd-agents: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.json"], "missing.json: No such file or directory"),
        (["encode", "--dialect", "vlm"], "--dialect: 'vlm' is none of llm_d, vllm, "),
        (["encode", "--body", "missing.json"], "missing.json: No such file or directory"),
        (["encode", "--nope"], "No such option"),
        (["turn"], "No such command"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    code, _, said = run(*arguments, stdin=SMALL)
    assert code == 2
    assert message in said


@pytest.mark.parametrize("body", ["7", "{", "[" * 100_000])
def test_a_body_that_is_none(tmp_path: Path, body: str) -> None:
    (tmp_path / "call.json").write_text(body)
    code, _, said = run("encode", "--body", str(tmp_path / "call.json"), stdin=SMALL)
    assert code == 1
    assert "call.json: is not " in said


@pytest.mark.parametrize("vector", json.loads((VECTORS / "headers.json").read_text()))
def test_encode_and_decode_agree_with_the_golden_vectors(vector: dict[str, Any]) -> None:
    _, printed, _ = run("encode", stdin=json.dumps(vector["hints"]))
    assert printed == f"x-llmd-hints: {vector['header']}\n"
    code, answer, _ = run("decode", printed)
    assert code == 0
    declared = json.dumps(json.loads(answer)["hints"])
    _, again, _ = run("encode", stdin=declared)
    assert again == printed


def test_decode_tells_what_is_not_understood() -> None:
    code, answer, _ = run("decode", 'v=1, program="p1", step="s1";zed=1, fork=7, mood="up"')
    shown = json.loads(answer)
    assert code == 0
    assert shown["hints"] == {"program": {"id": "p1"}, "step": {"id": "s1"}}
    assert [one["hint"] for one in shown["rejected"]] == ["fork"]
    assert sorted(shown["ignored"]) == ["mood", "step;zed"]


def test_decode_reads_acks() -> None:
    for prefix in ("", "x-llmd-ack: ", "X-LLMD-Ack:"):
        code, answer, _ = run("decode", f'{prefix}v=1, rejected=("fork";reason="no"), resync')
        assert code == 0
        assert json.loads(answer) == {"ack": {"rejected": [{"hint": "fork", "reason": "no"}], "resync": True}}


def test_decode_joins_the_lines_of_one_header() -> None:
    lines = b'x-llmd-hints: v=1, program="p1"\r\nX-LLMD-Hints: step="s1"\r\n'
    code, answer, _ = run("decode", stdin=lines)
    assert code == 0
    assert json.loads(answer)["hints"]["step"] == {"id": "s1"}


def test_decode_refuses_what_holds_no_hints() -> None:
    assert run("decode", 'v=1, program="p1"')[0] == 1
    for header, reason in (
        ("v=2", "version 2 is not known"),
        ("(((", "not a structured field"),
        ("x" * 3000, "3000 bytes, more than 2048"),
        ("x-llmd-ack: v=2", "x-llmd-ack: not an ack"),
    ):
        code, printed, said = run("decode", header)
        assert (code, printed) == (1, "")
        assert reason in said
    assert run("decode", stdin=b"\xff\xfe")[0] == 1


def test_through_a_real_pipe() -> None:
    command = [sys.executable, "-m", "llmd_agents", "hints"]
    sent = subprocess.run([*command, "encode", "-"], input=SMALL, capture_output=True, text=True, check=True)
    header = sent.stdout.strip().removeprefix("x-llmd-hints: ")
    assert decode_hints(header).hints is not None
    read = subprocess.run([*command, "decode"], input=sent.stdout, capture_output=True, text=True, check=True)
    assert json.loads(read.stdout)["hints"] == json.loads(SMALL)
