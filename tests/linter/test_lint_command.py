"""`llmd-agents lint` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conversations import agent, continued, encoded


def lint(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmd_agents", "lint", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=60, env={"COLUMNS": "100", **environment}
    )
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A recording in which the time in the system prompt changes on each of three further turns."""
    body = agent()
    lines = [encoded(body)]
    for turn in range(1, 4):
        body = continued(body, f"answer {turn}", f"question {turn}")
        content = agent()["messages"][0]["content"].replace("10:00:01", f"10:0{turn}:00")
        body["messages"][0]["content"] = content
        lines.append(encoded(body))
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_findings_are_explained_and_the_status_says_so(broken: Path) -> None:
    done = lint(str(broken), "--price-input", "2.5", "--price-cached", "0.25")
    assert done.returncode == 1
    assert done.stderr == ""
    shown = " ".join(done.stdout.split())
    assert (
        "4 requests with 1,697 prompt tokens; 1,011 of them were recomputed because a prefix changed" in shown
    )
    assert "timestamp message 0, byte 36 3 337 1,011 $0.0023" in shown
    assert "1. diverged at message 0, byte 36: a time changed in the system prompt, 337 tokens" in shown
    lines = done.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("   before"))
    before, after, caret = lines[start : start + 3]
    column = caret.index("^")
    assert before[:column] == after[:column].replace("after ", "before")
    assert (before[column], after[column]) == ("0", "1")
    assert "Leave the time out" in shown


def test_json_for_other_programs(broken: Path) -> None:
    done = lint(str(broken), "--json", LLMD_AGENTS_PRICE_INPUT="2.5")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (finding,) = report["findings"]
    assert report["requests"] == 4
    assert report["recomputed_tokens"] == finding["recomputed_tokens"] == 1011
    assert report["cost"] == pytest.approx(1011 * 2.5 / 1e6)
    assert (finding["cause"], finding["times"], finding["first"]["byte"]) == ("timestamp", 3, 36)


def test_stable_prompts_from_standard_input() -> None:
    done = lint("-", stdin=b"\n".join(map(encoded, (agent(), continued(agent())))))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("every prompt extends the one before it.\n")


def test_small_losses_can_be_left_out(broken: Path) -> None:
    assert lint(str(broken), "--min-tokens", "1000").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.jsonl",), "missing.jsonl: No such file or directory"),
        (("-",), "standard input, line 1: not JSON"),
        (
            ("-", "--price-input", "much"),
            "'much' is no price: dollars per million tokens (2.5), or MODEL=DOLLARS",
        ),
        (("-", "--price-cached", "1"), "a price of cached tokens needs the price of input tokens beside it"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    done = lint(*arguments, stdin=b"{oops")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_markup_in_a_prompt_is_shown_as_it_is(tmp_path: Path) -> None:
    first = {"messages": [{"role": "user", "content": "[red]one[/red] \x1b[31m and some more text"}]}
    then = continued(first)
    then["messages"][0]["content"] = "[red]two[/red] \x1b[31m and some more text"
    path = tmp_path / "[bold].jsonl"
    path.write_bytes(encoded(first) + b"\n" + encoded(then))
    done = lint(str(path))
    assert done.returncode == 1
    assert "[red]one[/red] \\x1b[31m and" in done.stdout
    assert "\x1b" not in done.stdout
