"""Programs read from OpenTelemetry spans, in every form in which exporters write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.bench import (
    BadTrace,
    CodingSession,
    RecordedFork,
    RecordedProgram,
    RecordedStep,
    read_recordings,
)
from llmd_agents.bench.prompt_blocks import PromptBlocks
from llmd_agents.bench.recorded_program import programs_of

ZERO = 1_700_000_000


def span(name: str, started: float, ended: float, **attributes: Any) -> dict[str, Any]:
    """Returns a span of a step in our own form of this test: times in seconds, attributes by name."""
    given = {name.replace("__", "."): value for name, value in attributes.items()}
    return {"id": name, "started": started, "ended": ended, "attributes": given}


def step(name: str, started: float, ended: float, *parents: str, **attributes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "gen_ai__operation__name": "chat",
        "gen_ai__request__model": "m",
        "llmd__program__id": "p-1",
        "llmd__step__id": name,
        "llmd__branch": "main",
        "llmd__parents": list(parents),
    }
    return span(name, started, ended, **{**given, **attributes})


def branch(fork: str, index: int, started: float, ended: float, *parents: str, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "llmd__program__id": "p-1",
        "llmd__branch": f"{fork}.{index}",
        "llmd__parents": list(parents),
        "llmd__fork__id": fork,
        "llmd__fork__index": index,
        "llmd__fork__width": 2,
        "llmd__fork__branch": "main",
    }
    return span(f"{fork}.{index}", started, ended, **{**given, **more})


def plain(one: dict[str, Any]) -> dict[str, Any]:
    """A span in a plain list, with times in ISO 8601."""
    return {
        "trace_id": "t",
        "span_id": one["id"],
        "name": one["id"],
        "start_time": f"2023-11-14T22:13:{20 + one['started']:09.6f}",
        "end_time": f"2023-11-14T22:13:{20 + one['ended']:09.6f}",
        "attributes": one["attributes"],
    }


def printed(one: dict[str, Any]) -> dict[str, Any]:
    """A span as the SDK's `to_json` prints it."""
    made = plain(one)
    ids = {"trace_id": f"0x{'t':0>32}", "span_id": one["id"], "trace_state": "[]"}
    times = {name: f"{made[name]}Z" for name in ("start_time", "end_time")}
    return {"name": one["id"], "context": ids, "parent_id": None, **times, "attributes": one["attributes"]}


def otlp(one: dict[str, Any]) -> dict[str, Any]:
    """A span as OTLP/JSON has it."""
    return {
        "traceId": "t",
        "spanId": one["id"],
        "name": one["id"],
        "startTimeUnixNano": str(round((ZERO + one["started"]) * 1e9)),
        "endTimeUnixNano": str(round((ZERO + one["ended"]) * 1e9)),
        "attributes": [{"key": name, "value": any_value(value)} for name, value in one["attributes"].items()],
    }


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(one) for one in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}


def lines(documents: list[Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in documents)


FORMS = {
    "SDK, a line each": lambda spans: lines([printed(one) for one in spans]),
    "SDK, as printed": lambda spans: "\n".join(json.dumps(printed(one), indent=4) for one in spans),
    "OTLP": lambda spans: lines(
        [{"resourceSpans": [{"scopeSpans": [{"spans": [otlp(one)]}]}]} for one in spans]
    ),
    "list": lambda spans: json.dumps([plain(one) for one in spans]),
    "document": lambda spans: json.dumps({"trace_id": "t", "spans": [plain(one) for one in spans]}),
}


def read(path: Path, text: str) -> list[RecordedProgram]:
    file = path / "spans.json"
    file.write_text(text, "utf-8")
    found = read_recordings(file)
    assert all(isinstance(one, RecordedProgram) for one in found)
    return [one for one in found if isinstance(one, RecordedProgram)]


@pytest.mark.parametrize("form", FORMS)
def test_a_fork_with_tools_in_every_form(tmp_path: Path, form: str) -> None:
    head = {"llmd__context__digests": ["aa", "bb"], "llmd__context__sizes": [100, 300]}
    spans = [
        step("s1", 0.0, 1.0, gen_ai__usage__input_tokens=100, gen_ai__usage__output_tokens=7, **head),
        span("t", 1.0, 3.0, gen_ai__operation__name="execute_tool", gen_ai__tool__name="search",
             llmd__program__id="p-1", llmd__branch="main"),
        branch("f1", 0, 3.0, 5.0, "s1", llmd__fork__name="grade"),
        branch("f1", 1, 3.5, 6.0, "s1", llmd__fork__name="grade"),
        step("s2", 3.0, 5.0, "s1", llmd__branch="f1.0", llmd__context__extends="bb",
             llmd__context__digests=["c0"], llmd__context__sizes=[200], gen_ai__usage__input_tokens=160),
        step("s3", 3.5, 6.0, "s1", llmd__branch="f1.1", llmd__context__extends="bb",
             llmd__context__digests=["c1"], llmd__context__sizes=[200], gen_ai__usage__input_tokens=164),
        step("s4", 7.0, 9.0, "f1", gen_ai__agent__name="judge", llmd__step__kind="evaluate"),
    ]  # fmt: skip
    (program,) = read(tmp_path, FORMS[form](spans))
    assert [(one.id, one.branch, one.parents, one.input_tokens) for one in program.steps] == [
        ("s1", "main", (), 100),
        ("s2", "f1.0", ("s1",), 160),
        ("s3", "f1.1", ("s1",), 164),
        ("s4", "main", ("f1",), 3),
    ]
    assert (program.id, program.steps[0].output_tokens, program.steps[3].agent) == ("p-1", 7, "judge")
    (fork,) = program.forks
    assert (fork.id, fork.name, fork.branch, fork.width, fork.parents) == ("f1", "grade", "main", 2, ("s1",))
    assert [(name, round(started, 3)) for name, started in fork.branches] == [("f1.0", 3.0), ("f1.1", 3.5)]
    assert [(one.tool, one.branch, round(one.ended, 3)) for one in program.tools] == [("search", "main", 3.0)]
    first, second, third, _ = (one.blocks for one in program.steps)
    assert (len(first), len(second), len(third)) == (6, 10, 10)
    # The prefix of 100 tokens is 6 full blocks; the 7th ends in what differs.
    assert first == second[:6] == third[:6]
    assert not set(second[6:]) & set(third[6:])


def test_spans_of_others_wait_for_what_had_ended(tmp_path: Path) -> None:
    def other(name: str, started: float, ended: float, *texts: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": text} for text in texts]
        given = {"gen_ai__operation__name": "chat", "gen_ai__input__messages": json.dumps(messages)}
        return span(name, started, ended, **given)

    spans = [
        span("http", 0.0, 9.0),
        other("a", 0.0, 2.0, "x" * 400),
        other("b", 2.5, 4.5, "x" * 400, "y" * 80),
        other("c", 3.0, 5.0, "z" * 400),
        other("d", 6.0, 9.0, "x" * 400, "y" * 80),
    ]
    (program,) = read(tmp_path, FORMS["list"](spans))
    assert [(one.id, one.branch, one.parents) for one in program.steps] == [
        ("a", "main", ()),
        ("b", "f1.0", ("a",)),
        ("c", "f1.1", ("a",)),
        ("d", "main", ("f1",)),
    ]
    assert [(one.id, one.parents, one.width) for one in program.forks] == [("f1", ("a",), 2)]
    blocks = {one.id: one.blocks for one in program.steps}
    assert blocks["b"] == blocks["d"]
    assert blocks["b"][: len(blocks["a"])] == blocks["a"]
    assert not set(blocks["c"]) & set(blocks["b"])


def test_programs_of_one_file_share_prompts(tmp_path: Path) -> None:
    head = {
        "llmd__context__digests": ["aa"],
        "llmd__context__sizes": [400],
        "gen_ai__usage__input_tokens": 100,
    }
    spans = [
        step("s1", 0.0, 1.0, **head),
        step("s1", 5.0, 6.0, **{**head, "llmd__program__id": "p-2"}),
    ]
    first, second = read(tmp_path, FORMS["list"](spans))
    assert (first.delay_s, round(second.delay_s, 3)) == (0.0, 5.0)
    assert first.steps[0].blocks == second.steps[0].blocks


def test_a_coding_session_is_told_apart(coding_sessions: Path) -> None:
    (session,) = read_recordings(coding_sessions / "trace_0003.json")
    assert isinstance(session, CodingSession)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds neither a coding-agent session nor a span of a model call"),
        ("[1, null, {}]", "holds neither a coding-agent session nor a span of a model call"),
        ('{"a": 1}\n{"b": ', "not JSON, in what begins at line 2"),
        ("[" * 100_000, "not JSON, in what begins at line 1"),
        ('{"requests": 3}', "id: Field required"),
    ],
)
def test_a_file_that_is_neither(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(BadTrace) as failed:
        read_recordings(file)
    assert str(failed.value).startswith(str(file))
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="No such file"):
        read_recordings(tmp_path / "none.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match="not UTF-8"):
        read_recordings(tmp_path / "bytes")


names = st.sampled_from(["s1", "s2", "s3", "s4", "f1", "f2", ""])
branches = st.sampled_from(["main", "f1.0", "f1.1", "f2.0", "f2.1", "x"])
times = st.integers(0, 9).map(float)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
hostile = st.dictionaries(
    st.sampled_from(
        [
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.input.messages",
            "gen_ai.request.model",
            "llmd.context.digests",
            "llmd.context.sizes",
            "llmd.context.extends",
            "llmd.prompt.bytes",
            "llmd.fork.width",
            "llmd.fork.name",
            "llmd.fork.branch",
            "llmd.parents",
            "llmd.branch",
        ]
    ),
    anything,
    max_size=4,
)


@st.composite
def spans(draw: st.DrawFn) -> dict[str, Any]:
    started, took = draw(times), draw(times)
    if draw(st.booleans()):
        made = step(draw(names), started, started + took, *draw(st.lists(names, max_size=3)))
        made["attributes"]["llmd.branch"] = draw(branches)
    else:
        fork, index = draw(st.sampled_from(["f1", "f2"])), draw(st.integers(0, 1))
        made = branch(fork, index, started, started + took, *draw(st.lists(names, max_size=2)))
        made["attributes"]["llmd.fork.branch"] = draw(branches)
    made["attributes"] |= draw(st.just({}) | hostile)
    return made


@given(st.lists(spans(), min_size=1, max_size=10))
def test_no_step_ever_waits_for_itself(given: list[dict[str, Any]]) -> None:
    try:
        programs = programs_of([plain(one) for one in given], Path("spans.json"))
    except BadTrace:
        assert not any("gen_ai.operation.name" in one["attributes"] for one in given)
        return
    for program in programs:
        assert all(step.input_tokens >= 1 and step.output_tokens >= 0 for step in program.steps)
        assert all(len(step.blocks) == step.input_tokens // 16 for step in program.steps)
        _play(program)


def _play(program: RecordedProgram) -> None:
    """Plays without time: whatever can go on does, until nothing is left or nothing can."""
    over: set[str] = set()
    begun = {"main"}
    waiting: list[RecordedStep | RecordedFork] = [*program.steps, *program.forks]
    inside = {fork.id: {name for name, _ in fork.branches} for fork in program.forks}
    running: list[str] = []
    while True:
        ready = [one for one in waiting if one.branch in begun and set(one.parents) <= over]
        waiting = [one for one in waiting if one not in ready]
        for one in ready:
            if one.id in inside:
                begun |= inside[one.id]
                running.append(one.id)
            else:
                over.add(one.id)
        left = {one.branch for one in waiting} | {fork.branch for fork in program.forks if fork.id in running}
        done = [fork for fork in running if not inside[fork] & left]
        running = [fork for fork in running if fork not in done]
        over |= set(done)
        if not ready and not done:
            break
    assert waiting == []
    assert running == []


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.sampled_from("abcd")),
            st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 500)), max_size=4),
            st.integers(1, 400),
        ),
        max_size=8,
    )
)
def test_blocks_of_prompts_form_a_tree(prompts: list[tuple[str | None, list[tuple[str, int]], int]]) -> None:
    known = PromptBlocks()
    before: dict[int, tuple[int, ...]] = {}
    for extends, links, tokens in prompts:
        length, blocks = known.read(extends, links, tokens)
        assert len(blocks) == length // 16
        for index, block in enumerate(blocks):
            assert before.setdefault(block, blocks[:index]) == blocks[:index]
