import json
from pathlib import Path
from typing import Any

import pytest

from llmd_agents.bench import BadTrace, Turn, read_coding_session


def request(t: float, api_time: float | None = 1.0, **more: Any) -> dict[str, Any]:
    value = {"t": t, "model": "m", "in": 130, "out": 5, "hash_ids": [1, 2], "type": "n", **more}
    return value if api_time is None else {**value, "api_time": api_time}


def subagent(t: float, duration_ms: float | None, status: str = "completed") -> dict[str, Any]:
    return {
        "type": "subagent", "t": t, "agent_id": "a", "status": status, "duration_ms": duration_ms,
        "requests": [request(0.0), request(4.0)],
    }  # fmt: skip


def write(tmp_path: Path, *records: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"id": "t", "block_size": 64, "requests": list(records), **more}))
    return path


def test_gaps_are_rebuilt_from_start_and_duration(tmp_path: Path) -> None:
    records = [request(0.0, 2.5), request(10.0, None, think_time=99), request(12.0), request(12.5)]
    session = read_coding_session(write(tmp_path, *records, tool_tokens=30, system_tokens=7))
    assert [turn.gap_s for turn in session.turns()] == [0.0, 7.5, 2.0, 0.0]
    assert session.head_tokens == 37
    assert session.turns()[0] == Turn("m", 0.0, 130, 5, (1, 2))


def test_awaited_subagents_start_before_their_completion(tmp_path: Path) -> None:
    path = write(tmp_path, request(0.0), subagent(31.0, 10_000), subagent(41.0, 30_000), request(45.0))
    first, group, last = read_coding_session(path).events
    assert isinstance(first, Turn)
    assert isinstance(group, tuple)
    assert [(one.delay_s, one.awaited) for one in group] == [(20.0, True), (10.0, True)]
    assert [turn.gap_s for turn in group[0].turns] == [0.0, 3.0]
    assert isinstance(last, Turn)
    assert last.gap_s == 4.0


def test_subagents_in_the_background_start_at_their_time(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        request(0.0),
        subagent(3.0, None, "async_launched"),
        subagent(4.0, 500),
        request(5.0),
    )
    _, background, awaited, last = read_coding_session(path).events
    assert isinstance(background, tuple)
    assert [(one.delay_s, one.awaited) for one in background] == [(2.0, False)]
    assert isinstance(awaited, tuple)
    assert [(one.delay_s, one.awaited) for one in awaited] == [(2.5, True)]
    assert isinstance(last, Turn)
    assert last.gap_s == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "is no coding-agent session"),
        ('{"a": 1}', "is no coding-agent session"),
        ('{"requests": [], "id": "t", "block_size": 64}', "requests: List should have at least 1 item"),
        ('{"requests": [{}], "id": "t", "block_size": 64}', "t: Field required"),
        ('{"requests": [{}], "id": "t", "block_size": 0}', "block_size: Input should be greater than 0"),
        (json.dumps({"requests": [request(0, hash_ids=[1])], "id": "t", "block_size": 64}), "1 hash_ids"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_session_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(BadTrace, match=message) as raised:
        read_coding_session(path)
    assert "\n" not in str(raised.value)
    assert "trace.json" in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="No such file"):
        read_coding_session(tmp_path / "nothing.json")


def test_all_recorded_sessions_are_read(coding_sessions: Path) -> None:
    sessions = [read_coding_session(path) for path in sorted(coding_sessions.glob("*.json"))]
    assert len(sessions) == 48
    assert sum(len(session.turns()) for session in sessions) == 4_321
    forks = [event for session in sessions for event in session.events if isinstance(event, tuple)]
    assert sum(map(len, forks)) == 31
