"""What is learned of tools' durations, how it meets what is declared, and how it outlives a process."""

import json
import math
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents import tool
from llmd_agents.client import declared_tools, durations
from llmd_agents.client.declared_tools import DeclaredTool, declared_and_learned, expectation
from llmd_agents.client.durations import CENTROIDS_MAX, MEMORY, TOOLS_MAX, Expected, ToolDurations
from tests.client.listening import listening


@pytest.fixture(autouse=True)
def learned(monkeypatch: pytest.MonkeyPatch) -> ToolDurations:
    """The process's own, with nothing learned yet."""
    found = ToolDurations()
    monkeypatch.setattr(durations, "_learned", found)
    monkeypatch.setattr(declared_tools, "_declared", type(declared_tools._declared)())
    return found


def lognormal(durations: ToolDurations, name: str, median: float, sigma: float, count: int) -> None:
    draw = random.Random(1)
    for _ in range(count):
        durations.observe(name, draw.lognormvariate(math.log(median), sigma))


def test_nothing_is_told_before_a_few_observations(learned: ToolDurations) -> None:
    told = []
    for _ in range(4):
        told.append(learned.expect("search"))
        learned.observe("search", 2.0)
    assert told[:3] == [None, None, None]
    # Three equal ones do not make it sure: the spread begins wide, and narrows as more is seen.
    assert told[3] == Expected(2.0, 0.443, 3)
    for _ in range(100):
        learned.observe("search", 2.0)
    sure = learned.expect("search")
    assert sure is not None
    assert (sure.median_s, round(sure.sigma, 1)) == (2.0, 0.1)
    assert 104 * 15 / 16 <= sure.samples <= 104  # what is expected is not computed anew each time


@pytest.mark.parametrize(("median", "sigma"), [(0.05, 0.2), (5.0, 0.7), (400.0, 1.5)])
def test_median_and_spread(learned: ToolDurations, median: float, sigma: float) -> None:
    lognormal(learned, "t", median, sigma, 400)
    found = learned.expect("t")
    assert found is not None
    assert abs(math.log(found.median_s / median)) < 0.35 * sigma
    assert found.sigma == pytest.approx(sigma, rel=0.3)


def test_a_change_is_noticed(learned: ToolDurations) -> None:
    lognormal(learned, "t", 1.0, 0.1, 10_000)
    lognormal(learned, "t", 60.0, 0.1, MEMORY)
    found = learned.expect("t")
    assert found is not None
    assert found.median_s > 50
    assert found.samples <= MEMORY


@given(st.text(), st.floats() | st.integers() | st.none() | st.text())
def test_anything_at_all_may_be_observed(name: str, seconds: Any) -> None:
    found = ToolDurations()
    for _ in range(3):
        found.observe(name, seconds)
    told = found.expect(name)
    numeric = isinstance(seconds, int | float) and 0 <= seconds < math.inf
    assert (told is not None) == numeric
    assert told is None or (1e-3 <= told.median_s <= 1e9 + 1 and 0 <= told.sigma <= 10)


def test_memory_is_bounded(learned: ToolDurations) -> None:
    for index in range(TOOLS_MAX + 50):
        learned.observe(f"t{index}", 1.0)
        for _ in range(3):
            learned.observe("used all the time", 1.0)
    assert len(learned._tools) == TOOLS_MAX
    assert learned.expect("used all the time") is not None
    for _ in range(5_000):
        learned.observe("t", random.Random(2).random())
    assert learned._tools["t"].digest.n_centroids <= CENTROIDS_MAX


def test_several_threads(learned: ToolDurations) -> None:
    def work() -> None:
        for index in range(100):
            learned.observe(f"t{index % 3}", 1.0 + index)
            learned.expect(f"t{index % 3}")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 8 x 34 of the first: as many as make the older ones fade when the next are taken in.
    assert {name: known.digest.mass() + len(known.newer) for name, known in learned._tools.items()} == {
        "t0": 8 * 34,
        "t1": 8 * 33,
        "t2": 8 * 33,
    }
    for known in learned._tools.values():
        newer = len(known.newer)
        known.take_in()
        assert MEMORY / 2 <= known.digest.mass() <= MEMORY / 2 + MEMORY / 16 + newer


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (DeclaredTool("t"), (2.0, 0.096)),
        (DeclaredTool("t", expected=2.0), (2.0, 0.096)),
        (DeclaredTool("t", expected=200.0), (200.0, 4.606)),
        (DeclaredTool("t", expected=0.0), (0.0, 7.602)),
        (DeclaredTool("t", expected=1e9), (1e9, 10.0)),
        (DeclaredTool("t", expected=200.0, sigma=0.1), (200.0, 0.1)),
        (DeclaredTool("another"), (None, None)),
        (DeclaredTool("another", expected=7.0), (7.0, None)),
    ],
)
def test_what_is_declared_beats_what_was_learned(
    learned: ToolDurations, declared: DeclaredTool, told: tuple[float | None, float | None]
) -> None:
    for _ in range(104):
        learned.observe("t", 2.0)
    assert expectation(declared) == told


def test_a_tool_that_declares_nothing_is_forecast_from_what_it_took(learned: ToolDurations) -> None:
    @tool
    def search() -> None: ...

    @tool(expected="5s")
    def fetch() -> None: ...

    for name in ("search", "fetch"):
        for _ in range(5):
            learned.observe(name, 20.0)
    with listening() as (run, told):
        search()
        fetch()
    assert [(event.tool, event.expected) for event in told.started] == [("search", 20.0), ("fetch", 5.0)]
    assert [record.expected for record in run.history.tools] == [20.0, 5.0]
    (pair,) = declared_and_learned()
    assert (pair.tool.name, pair.tool.expected) == ("fetch", 5.0)
    # Of the five earlier ones and this one, at once over.
    assert pair.learned.samples == 6
    assert round(pair.learned.off_by(5.0), 2) == -1.39


def test_declarations_are_bounded() -> None:
    for index in range(declared_tools.TOOLS_MAX + 10):
        tool(name=f"t{index}")(len)
    assert len(declared_tools._declared) == declared_tools.TOOLS_MAX
    assert declared_tools.declared_tool("t0") is None


# --- kept in a file


def test_saved_and_loaded(tmp_path: Path, learned: ToolDurations) -> None:
    path = tmp_path / "new" / "tools.json"
    lognormal(learned, "Suche\n", 3.0, 0.5, 300)
    learned.observe("once", 1.0)
    learned.save(path)
    again = ToolDurations()
    again.load(path)
    assert again.expect("Suche\n") == learned.expect("Suche?") is not None
    assert list(again._tools) == ["Suche?", "once"]
    assert os.listdir(path.parent) == ["tools.json"]
    assert len(path.read_bytes()) < 3000


def test_what_several_processes_save(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    ours, theirs = ToolDurations(), ToolDurations()
    for _ in range(3):
        ours.observe("both", 1.0)
        ours.observe("ours", 1.0)
        theirs.observe("both", 9.0)
        theirs.observe("theirs", 9.0)
    ours.save(path)
    theirs.save(path)
    result = ToolDurations()
    result.load(path)
    medians = {name: told.median_s for name in ("ours", "both", "theirs") if (told := result.expect(name))}
    assert medians == {"ours": 1.0, "both": 9.0, "theirs": 9.0}


GOOD: dict[str, Any] = {
    "format": "llmd-agents tool durations",
    "version": 1,
    "tools": {"t": [[0.5, 4.0]]},
}


def test_a_file_by_hand(tmp_path: Path, learned: ToolDurations) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(GOOD | {"later": "versions may add"}))
    learned.load(path)
    told = learned.expect("t")
    assert told is not None
    assert (told.median_s, told.samples) == (round(math.exp(0.5), 3), 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        json.dumps(GOOD).encode()[:-9],
        json.dumps(GOOD).encode()[:50] + b"[" * 100_000,
        json.dumps(GOOD).encode()[:50] + b"\xff\xfe",
        json.dumps(GOOD | {"version": 2}).encode(),
        json.dumps(GOOD | {"tools": {"t": []}}).encode(),
        json.dumps(GOOD | {"tools": {"t": [[math.nan, 1.0]]}}).encode(),
        json.dumps(GOOD | {"tools": {"t": [[1e308, 1.0]]}}).encode(),
        json.dumps(GOOD | {"tools": {"t": [[1.0, -1.0]]}}).encode(),
        json.dumps(GOOD | {"tools": {"t": [[1.0, 1e300]]}}).encode(),
        json.dumps(GOOD | {"tools": {"": [[1.0, 1.0]]}}).encode(),
        json.dumps(GOOD | {"tools": {"t": [[1.0, 1.0]] * 1000}}).encode(),
        json.dumps(GOOD | {"tools": {f"t{i}": [[1.0, 1.0]] for i in range(TOOLS_MAX + 1)}}).encode(),
        json.dumps(GOOD).encode() + b" " * (9 << 20),
    ],
)
def test_a_file_that_cannot_be_used_is_left_out(
    tmp_path: Path, learned: ToolDurations, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tools.json"
    path.write_bytes(content)
    learned.load(path)
    assert not learned._tools
    (line,) = caplog.records
    assert line.getMessage().startswith(f"tool durations are not read from {path}: ")
    # And is replaced by the next one to save.
    learned.observe("t", 1.0)
    learned.save(path)
    again = ToolDurations()
    again.load(path)
    assert list(again._tools) == ["t"]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"{}",
        b"\xff\xfe",
        b"[project]\nname = 'mine'\n",
        json.dumps(GOOD | {"format": "somebody else's"}).encode(),
        b" " * (9 << 20),
    ],
)
def test_what_is_no_such_file_is_neither_read_nor_replaced(
    tmp_path: Path, learned: ToolDurations, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_bytes(content)
    learned.observe("t", 1.0)
    learned.save(path)
    assert path.read_bytes() == content
    not_read, not_saved = (record.getMessage() for record in caplog.records)
    assert not_read.startswith(f"tool durations are not read from {path}: ")
    assert not_saved == f"tool durations are not saved to {path}: it is not a file of tool durations"
    assert list(learned._tools) == ["t"]


def test_a_link_stays_one_and_a_pipe_too(tmp_path: Path, learned: ToolDurations) -> None:
    (tmp_path / "link").symlink_to("target")
    os.mkfifo(tmp_path / "fifo")
    learned.observe("t", 1.0)
    for _ in range(2):
        learned.save(tmp_path / "link")
    learned.save(tmp_path / "fifo")  # as it would be with /dev/null
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "fifo").is_fifo()
    assert json.loads((tmp_path / "target").read_text())["tools"].keys() == {"t"}


def test_places_that_cannot_be_read_or_written(
    tmp_path: Path, learned: ToolDurations, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    learned.load(tmp_path / "missing")
    assert caplog.records == []
    for path in (tmp_path, tmp_path / "fifo", "nul\0byte"):
        learned.load(path)
    for place in (tmp_path, tmp_path / "file" / "below", "nul\0byte"):
        learned.save(place)
    assert len(caplog.records) == 3 + 3 + 3  # saving reads first
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file"]


PROGRAM = """
import time
from llmd_agents import tool

@tool
def work():
    pass

for _ in range(3):
    work()
{then}
"""


def run(path: Path, then: str = "") -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"LLMD_AGENTS_TOOL_DURATIONS": str(path)}
    command = [sys.executable, "-c", PROGRAM.format(then=then)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_environment_names_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    for samples in (3, 6):
        assert run(path, "raise SystemExit(3)").returncode == 3
        found = ToolDurations()
        found.load(path)
        told = found.expect("work")
        assert told is not None
        assert told.samples == samples


def test_a_relative_path_is_that_of_the_start(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    code = PROGRAM.format(then="import os; os.chdir('elsewhere')")
    environment = os.environ | {"LLMD_AGENTS_TOOL_DURATIONS": "tools.json"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, timeout=60, check=True)
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "tools.json"]
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_damaged_file_and_a_forked_child_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(GOOD)[:-1])
    forking = """
import os
if (child := os.fork()) == 0:
    work()
else:
    print(os.waitpid(child, 0)[1])
"""
    done = run(path, forking)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert "Traceback" not in done.stderr
    assert json.loads(path.read_text())["tools"].keys() == {"work"}


def test_without_the_environment_nothing_is_written_and_no_sketch_is_imported(tmp_path: Path) -> None:
    code = "import sys, llmd_agents; print('fastdigest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "False\n"
    assert os.listdir(tmp_path) == []
