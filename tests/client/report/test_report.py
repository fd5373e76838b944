"""The report as a whole: its text, graph, page and JSON, for any history."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmd_agents.client.history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord
from llmd_agents.client.report import Report, report_of
from llmd_agents.hints import Ack, ForkPosition, Rejection
from llmd_agents.linter import Prices
from tests.client.report.histories import fork, history, on, step, tool


def essays(width: int = 3) -> History:
    story = history(12.0)
    ack = Ack(accepted=("program", "step"), clipped=(Rejection("priority", "at most 50"),))
    counted = {"input_tokens": 10_000, "cached_tokens": 8_000, "output_tokens": 100}
    step(story, "s1", 0.0, 2.0, agent="planner", ack=ack, **counted)
    tool(story, "t1", "search", 2.0, 3.5, asked_by="s1", expected=1.0)
    step(story, "s2", 3.5, 5.0, "s1", agent="planner", ack=ack, **counted)
    made = fork(story, "f1", [(5.0, 8.0)] * width, "s2", called="grade")
    for index in range(width):
        step(story, f"s{3 + index}", 5.0, 8.0, "s2", agent="grader", **counted, **on(made, index))
    step(story, "last", 8.0, 12.0, "f1", kind="synthesize")
    return story


def test_text() -> None:
    assert str(report_of(essays(), prices=Prices(input=2.5, cached=0.25))) == (
        """\
essays  12.0 s, ok
6 steps, 1 tool call, 1 fork; 1.5 at a time. essays-1

critical path: model     10.5 s   88 %  input tokens           50,000
critical path: tools     1.50 s   12 %  of them cached  40,000   80 %
critical path: own code    0 ms    0 %  output tokens             500
input $0.035; the cache saved $0.09
Tokens were counted in 5 of 6 steps only.

What to change
1. Make tool search faster, call it earlier, or keep its results. (up to 1.50 s)
   It is 12 % of the critical path, in 1 call; expected 1.00 s, took 1.50 s in the median.

Agents
          steps     time   on path    input   cached   output
─────────────────────────────────────────────────────────────
–             1   4.00 s    4.00 s        0                 0
planner       2   3.50 s    3.50 s   20,000     80 %      200
grader        3   9.00 s    3.00 s   30,000     80 %      300

Branches
             steps     time   on path    input   cached   output
────────────────────────────────────────────────────────────────
main             3   7.50 s    7.50 s   20,000     80 %      200
fork grade       3   9.00 s    3.00 s   30,000     80 %      300

Tools
         calls   errors     time   on path   median   expected
──────────────────────────────────────────────────────────────
search       1        0   1.50 s    1.50 s   1.50 s     1.00 s

Hints
The server answered them in 2 of 6 steps.
applied: program 2, step 2
clipped: priority 2 (at most 50)"""
    )


def test_mermaid_draws_narrow_forks_branch_by_branch() -> None:
    assert report_of(essays()).to_mermaid() == (
        """\
flowchart LR
  n0["s1 planner<br/>2.00 s"]
  n1(["search<br/>1.50 s"])
  n2["s2 planner<br/>1.50 s"]
  n3["s3 grader<br/>3.00 s"]
  n4["s4 grader<br/>3.00 s"]
  n5["s5 grader<br/>3.00 s"]
  n6["last synthesize<br/>4.00 s"]
  n0 --> n1
  n1 --> n2
  n2 --> n3
  n2 --> n4
  n2 --> n5
  n3 --> n6
  n4 --> n6
  n5 --> n6
  classDef path stroke-width:3px
  class n0,n1,n2,n3,n6 path
"""
    )


def test_mermaid_collapses_wide_forks_and_long_chains() -> None:
    story = essays(50)
    assert '[["grade × 50<br/>50 steps · 3.00 s"]]' in report_of(story).to_mermaid()
    for index in range(60):
        at = 12.0 + index
        parent = f"c{index - 1}" if index else "last"
        step(story, f"c{index}", at, at + 1, parent, agent="a" if index < 40 else "b")
    story.ended = 72.0
    drawn = report_of(story).to_mermaid()
    assert "c0 … c39 a<br/>40 steps · 40.0 s" in drawn
    assert "c40 … c59 b<br/>20 steps · 20.0 s" in drawn
    assert "s1 … s2 planner<br/>2 steps, 1 tool · 5.00 s" in drawn
    assert drawn.count("-->") == 4


def test_names_cannot_leave_their_labels() -> None:
    story = history(2.0)
    name = '"]; click n0 "javascript:x" %% <img src=x onerror=alert(1)>\n#quot;'
    step(story, "s1", 0.0, 1.0, agent=name, model=name)
    made = fork(story, "f1", [(1.0, 2.0)] * 9, "s1", called=name)
    step(story, "s2", 1.0, 2.0, "s1", kind=name, **on(made, 0))
    tool(story, name, name, 1.0, 2.0)
    report = report_of(story)
    for line in report.to_mermaid().splitlines():
        label = r'"[^"<>;]*(#\d+;[^"<>;]*)*<br/>[^"<>;]*"'
        known = rf"flowchart LR|  n\d+[(\[]+{label}[)\]]+|  n\d+ --> n\d+|  class.*"
        assert re.fullmatch(known, line), line
    page = _Page(report.to_html())
    assert page.tags & {"img", "link", "iframe"} == set()
    assert page.tags >= {"svg", "table", "details", "style", "script"}
    str(report)


class _Page(HTMLParser):
    """Reads a page; unclosed or wrongly nested elements fail."""

    _VOID = frozenset({"meta", "input", "rect", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given), given
        assert {"src", "srcset", "data"} & given.keys() == set()
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if given.get("href"):
            self.links.append(str(given["href"]))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


def test_the_page_loads_nothing_and_its_links_lead_within() -> None:
    text = report_of(essays()).to_html()
    page = _Page(text)
    assert re.findall(r"https?://|@import|url\(", text) == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_a_program_of_a_thousand_steps_is_a_page_of_a_bounded_size() -> None:
    story = history(3000.0)
    for index in range(1000):
        step(story, f"s{index}", 3.0 * index, 3.0 * index + 2, *([f"s{index - 1}"] if index else []))
        tool(story, f"t{index}", "search", 3.0 * index + 2, 3.0 * index + 3)
    text = report_of(story).to_html()
    assert len(text) < 1_500_000
    assert len(_Page(text).ids) > 1000


def test_json_is_read_back_the_same_and_fits_its_schema() -> None:
    report = report_of(essays(), prices=Prices(input=1.0))
    assert Report.from_json(report.to_json()) == report
    written = json.loads(report.to_json())
    schema = Report.schema()
    assert written.keys() == set(schema["required"]) == set(schema["properties"])
    assert written["version"] == 1
    with pytest.raises(ValueError, match="version"):
        Report.from_json(report.to_json().replace('"version": 1', '"version": 2', 1))


names = st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["a", "b", "<b>"]))
ids = st.sampled_from(["s1", "s2", "s3", "f1", "f2", "s9", ""])
branches = st.sampled_from(["main", "f1.0", "f1.1", "f2.0", "x"])
times = st.floats(-5, 20, allow_nan=False)
counts = st.one_of(st.none(), st.integers(0, 10**6))
positions = st.one_of(st.none(), st.just(ForkPosition(id="f1", index=0, width=2)))
steps = st.builds(
    StepRecord,
    step=ids,
    branch=branches,
    parents=st.lists(ids, max_size=3).map(tuple),
    join=st.none(),
    kind=names,
    agent=names,
    model=names,
    fork=positions,
    loop=st.none(),
    route=st.just("chat/completions"),
    server=st.just("http://x/v1"),
    started=times,
    prompt_bytes=st.integers(0, 10**6),
    new_bytes=st.integers(0, 10**6),
    ended=st.one_of(st.none(), times),
    outcome=st.sampled_from([None, "ok", "error", "cancelled"]),
    input_tokens=counts,
    cached_tokens=counts,
    output_tokens=counts,
    extends=st.sampled_from([None, b"x" * 16]),
)
tools = st.builds(
    ToolRecord,
    call=ids,
    tool=st.text(max_size=6),
    branch=branches,
    started=times,
    asked_by=st.one_of(st.none(), ids),
    expected=st.one_of(st.none(), st.floats(0, 10)),
    ended=st.one_of(st.none(), times),
)
forks = st.builds(
    ForkRecord,
    fork=st.sampled_from(["f1", "f2"]),
    name=names,
    branch=branches,
    width=st.integers(1, 9),
    parents=st.lists(ids, max_size=2).map(tuple),
    started=times,
    join=st.sampled_from(["all", "any", 1]),
    ended=st.one_of(st.none(), times),
)
forked = st.builds(
    BranchRecord,
    branch=branches,
    fork=st.sampled_from([None, "f1", "f2"]),
    index=st.integers(0, 3),
    parents=st.lists(ids, max_size=2).map(tuple),
    started=times,
    ended=st.one_of(st.none(), times),
    outcome=st.sampled_from([None, "ok", "error", "cancelled"]),
)


# Shrinking takes minutes, and the examples are small as they are.
@settings(max_examples=100, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(steps, max_size=8),
    st.lists(tools, max_size=4),
    st.lists(forks, max_size=3),
    st.lists(forked, max_size=5),
    st.floats(0, 30),
)
def test_any_history_gives_a_report(
    steps: list[StepRecord],
    tools: list[ToolRecord],
    forks: list[ForkRecord],
    branches: list[BranchRecord],
    ended: float,
) -> None:
    story = History("p", None, started_at=0.0, ended=ended, outcome="ok")
    story.steps, story.tools, story.forks, story.branches = steps, tools, forks, branches
    report = report_of(story)
    path = report.path
    assert sum(part.ended - part.started for part in path) == pytest.approx(ended, abs=1e-6)
    for one, other in itertools.pairwise(path):
        assert one.ended == pytest.approx(other.started, abs=1e-6)
    assert Report.from_json(report.to_json()) == report
    _Page(report.to_html())
    report.to_mermaid()
    str(report)


def test_the_report_is_not_loaded_before_it_is_asked_for() -> None:
    code = "import sys, llmd_agents; print([n for n in sys.modules if 'client.report' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        found = shutil.which(name)
        if found:
            return found
    if os.environ.get("CI"):
        pytest.fail("no Chromium to look at the page with")
    pytest.skip("no Chromium to look at the page with")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    """A probe at the end of the page writes what the browser made of it into its title."""
    page = tmp_path / "report.html"
    probe = """<script>{
      const bars = [...document.querySelectorAll(".timeline .bar")].map(one => one.getBoundingClientRect());
      const zoom = document.getElementById("zoom");
      const wide = document.querySelector(".wide");
      const before = wide.getBoundingClientRect().width;
      zoom.value = 2; zoom.dispatchEvent(new Event("input"));
      const after = wide.getBoundingClientRect().width;
      location.hash = "#s1";
      dispatchEvent(new HashChangeEvent("hashchange"));
      document.title = JSON.stringify({
        bars: bars.filter(one => one.width > 0 && one.height > 0).length,
        sideways: document.documentElement.scrollWidth > innerWidth,
        zoomed: after > 2 * before,
        opened: document.getElementById("s1").closest("details").open,
        nodes: document.querySelectorAll("svg .node").length,
      });
    }</script></body>"""
    page.write_text(report_of(essays()).to_html().replace("</body>", probe), "utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title is not None, done.stdout[:300]
    seen = json.loads(title[1])
    assert seen == {
        "bars": 5 + 7 + 1 + 3,  # of the path, of steps and tools, of the fork's frame and what is in it
        "sideways": False,
        "zoomed": True,
        "opened": True,
        "nodes": 7,
    }
