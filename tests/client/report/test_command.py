"""`llmd-agents report`, as a user would run it."""

import subprocess
import sys
from pathlib import Path

from llmd_agents.client.report import report_of
from tests.client.report.histories import history, step


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "llmd_agents", "report", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def saved(path: Path) -> Path:
    story = history(2.0)
    step(story, "s1", 0.0, 2.0, agent="planner")
    file = path / "report.json"
    file.write_text(report_of(story).to_json(), "utf-8")
    return file


def test_text_graph_and_page(tmp_path: Path) -> None:
    file, page = saved(tmp_path), tmp_path / "report.html"
    assert command(file).stdout.startswith("essays  2.00 s, ok")
    assert command(file, "--mermaid").stdout.startswith("flowchart LR")
    done = command(file, "--html", page)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_what_is_no_report(tmp_path: Path) -> None:
    none, other = tmp_path / "none.json", tmp_path / "other.json"
    other.write_text("{}")
    for done, said in (
        (command(none), f"llmd-agents: {none}: No such file or directory"),
        (command(other), f"llmd-agents: {other}: no report: version: Field required"),
        (command(saved(tmp_path), "--html", tmp_path), f"llmd-agents: {tmp_path}: Is a directory"),
    ):
        assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", said)
