"""Readers of recorded traffic: every form that is read, and what is said of what cannot be."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import HINTS_HEADER, Hints, Program, Step, encode_hints
from llmd_agents.linter.linting import Linting
from llmd_agents.linter.recorded import RecordedBlocks, RecordedRequest
from llmd_agents.linter.traffic import BadTraffic, open_traffic, read_traffic
from tests.strategies import json_values

from .conversations import Body, agent, continued, encoded


def read(*lines: Any, name: str = "t") -> list[Any]:
    data = b"\n".join(line if isinstance(line, bytes) else encoded(line) for line in lines)
    return list(read_traffic(io.BytesIO(data), name))


def scopes(*lines: Any) -> list[str]:
    return [one.scope for one in read(*lines)]


FIRST, SECOND = agent(), continued(agent())


def test_json_lines_of_bare_bodies() -> None:
    assert read(FIRST, b"", SECOND, b"") == [RecordedRequest("", FIRST), RecordedRequest("", SECOND)]
    assert read({"prompt": "a"}, {"input": "b", "instructions": "c"})[1].body["input"] == "b"


def test_one_document_on_one_line_or_many() -> None:
    expected = [RecordedRequest("", FIRST), RecordedRequest("", SECOND)]
    assert read([FIRST, SECOND]) == expected
    assert read(json.dumps([FIRST, SECOND], indent=2).encode()) == expected
    assert read(b"\xef\xbb\xbf" + json.dumps(FIRST, indent=1).encode()) == expected[:1]


def test_envelopes() -> None:
    found = read(
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": FIRST},
        {"path": "/v1/chat/completions", "session": "s", "branch": "b", "body": json.dumps(SECOND)},
        {
            "request": {"headers": {"X-Session-Id": "h"}, "body": FIRST},
            "response": {"usage": {"prompt_tokens": 9}},
        },
        {
            "body": FIRST,
            "response": {"body": json.dumps({"usage": {"input_tokens": 3, "cache_read_input_tokens": 4}})},
        },
        {"body": {"input": "x"}, "path": "/v1/embeddings"},
        {"body": FIRST, "method": "GET"},
        {"body": "no JSON"},
        {"note": "nothing to see"},
        7,
    )
    assert [(one.scope, one.tokens) for one in found] == [("", None), ("b/s", None), ("h", None), ("", 7)]
    assert found[1].body == SECOND


def test_hints_name_the_branch() -> None:
    hints = encode_hints(Hints(program=Program(id="p"), step=Step(id="s", branch="b")))
    assert scopes({"headers": {HINTS_HEADER: hints}, "body": FIRST}) == ["p/b"]
    assert scopes({"headers": {HINTS_HEADER: "((("}, "body": FIRST}) == [""]


def entry(body: bytes, started: str, **post: Any) -> dict[str, Any]:
    reply = {"usage": {"prompt_tokens": 100}}
    return {
        "startedDateTime": started,
        "request": {
            "method": "POST",
            "url": "https://api.example.com/v1/chat/completions",
            "headers": [{"name": "X-Session-ID", "value": "s"}],
            "postData": {"text": body.decode(), **post},
        },
        "response": {"content": {"text": json.dumps(reply)}},
    }


def test_har_files() -> None:
    har = {
        "log": {
            "entries": [
                entry(encoded(SECOND), "2026-11-21T10:00:05Z"),
                entry(base64.b64encode(encoded(FIRST)), "2026-11-21T10:00:01Z", encoding="base64"),
                entry(b"a=1&b=2", "2026-11-21T10:00:02Z"),
                {"request": {"method": "GET"}},
                {},
            ]
        }
    }
    expected = [RecordedRequest("s", FIRST, 100), RecordedRequest("s", SECOND, 100)]
    assert read(json.dumps(har, indent=1).encode()) == expected
    assert read(har) == expected


def span(start: int, attributes: dict[str, Any]) -> dict[str, Any]:
    def value(given: Any) -> dict[str, Any]:
        return {"intValue": str(given)} if isinstance(given, int) else {"stringValue": given}

    pairs = [{"key": key, "value": value(one)} for key, one in attributes.items()]
    return {"traceId": "t1", "startTimeUnixNano": str(start), "attributes": pairs}


def test_spans_of_otlp_with_parts() -> None:
    parts = [
        {"role": "user", "parts": [{"type": "text", "content": "Hello?"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}},
            ],
            "finish_reason": "tool_call",
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "none"}]},
    ]
    attributes = {
        "gen_ai.input.messages": json.dumps(parts),
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 50,
    }
    earlier = {**attributes, "gen_ai.input.messages": json.dumps(parts[:1])}
    spans = [span(1_000, attributes), span(999, earlier), span(1, {"gen_ai.operation.name": "execute_tool"})]
    found = read({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    assert [(one.scope, one.tokens, len(one.body["messages"])) for one in found] == [
        ("t1", 50, 1),
        ("t1", 50, 3),
    ]
    linting = Linting()
    for one in found:
        linting.add(one)
    assert (linting.requests, len(linting.findings)) == (2, 0)
    changed = json.loads(json.dumps(parts).replace("Hello?", "Hello!"))
    linting.add(read(span(2000, {**attributes, "gen_ai.input.messages": json.dumps([*changed, *parts])}))[0])
    (finding,) = linting.findings
    assert finding.first.message == 0


def test_recorded_spans_of_small_programs() -> None:
    folder = Path(__file__).parents[3] / "shared" / "traces" / "otel"
    if not folder.is_dir():
        pytest.skip(f"no recorded spans at {folder}")
    for path in sorted(folder.glob("*.json")):
        linting = Linting()
        with open_traffic(path) as stream:
            for one in read_traffic(stream, str(path)):
                linting.add(one)
        # Their prompts quote each other's answers; none is an edited form of an earlier one.
        assert linting.requests >= 4
        assert len(linting.findings) == 0


def session(*prompts: list[int]) -> Body:
    requests = [{"model": "m", "in": 64 * len(ids), "hash_ids": ids} for ids in prompts]
    return {"id": "s", "block_size": 64, "requests": requests}


def linted(*lines: Any) -> Linting:
    linting = Linting()
    for one in read(*lines):
        linting.add(one)
    return linting


def test_sessions_without_text_are_compared_by_blocks() -> None:
    start = list(range(20))
    nested = {"type": "subagent", "agent_id": "a", "requests": session([1, 2], [1, 2, 3])["requests"]}
    document = session(
        start, [*start, 20], [*start[:5], *range(30, 50)], [*start[:5], *range(30, 49), 60, 61], start[:3]
    )
    document["requests"].insert(1, nested)
    assert read(document)[1] == RecordedBlocks("s/a", "m", 64, (1, 2))
    linting = linted(document)
    (finding,) = linting.findings
    assert (finding.times, finding.lost_tokens, finding.first.where) == (1, 16 * 64, "token 320")
    assert linting.requests == 7
    shorter = linted(session(start, [*start[:5], 70, 71]))
    assert (shorter.compactions, len(shorter.findings)) == (1, 0)


def test_recorded_coding_sessions(coding_sessions: Path) -> None:
    path = coding_sessions / "trace_0003.json"
    linting = linted(path.read_bytes())
    assert linting.requests == 409
    assert 0 < linting.findings.lost_tokens < linting.tokens


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((FIRST, b'{"messages": [', SECOND), "t, line 2: not JSON: Expecting value"),
        ((FIRST, b"", b"\xff\xfe"), "t, line 3: not JSON"),
        ((b'{"a": 1,\n"b": }',), "t, line 2: not JSON: Expecting value"),
        ((b"[" * 100_000,), "t, line 1: not JSON: nested too deep"),
        ((b"hello",), "t, line 1: not JSON: Expecting value"),
        ((b"",), "t: no recorded request in it"),
        (({"a": 1}, {"b": 2}), "t: no recorded request in it"),
        (({"block_size": 0, "requests": []},), "t, line 1: block_size is 0"),
        (({"block_size": 64, "requests": [1]},), "t, line 1: "),
        (({"resourceSpans": [1]},), "t, line 1: "),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(lines: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BadTraffic) as refused:
        read(*lines)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(BadTraffic, match="missing: No such file"):
        open_traffic(Path("missing"))


def test_lines_are_read_one_at_a_time() -> None:
    """A reader that took the whole file first would never come back from one without an end."""

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            data = (encoded(FIRST) + b"\n")[: len(buffer)].ljust(1)
            buffer[: len(data)] = data
            return len(data)

    size = len(encoded(FIRST)) + 1
    read_bytes: list[int] = []
    requests = read_traffic(io.BufferedReader(Endless(), size), "endless", read_bytes.append)
    assert [next(requests) for _ in range(3)] == [RecordedRequest("", FIRST)] * 3
    assert read_bytes == [size] * 3


@given(
    st.lists(json_values | st.fixed_dictionaries({"body": json_values, "headers": json_values}), max_size=3)
)
def test_any_json_is_read_or_refused(values: list[Any]) -> None:
    linting = Linting()
    try:
        for one in read(*values):
            linting.add(one)
    except BadTraffic:
        assert linting.requests == 0
