"""Hints and events of later versions: what is unknown is ignored, another major version is no hint at all."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmd_agents.hints import HINTS_HEADER, Ack, decode_ack
from tests.stack.servers import Stack, stack

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "which version?"}], "max_tokens": 3}
JOINED = {"type": "joined", "program": "p", "at": 1, "fork": "f"}


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack(1) as running:
        yield running


@pytest.fixture
def http(servers: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers.router, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ("2", "2"),
        ("2;since=1.5", "2"),
        ("17", "17"),
        ("1.5", "1.5"),
        ('"two"', "'two'"),
        ("(1 2)", "1"),
        ("?1", "True"),
    ],
)
def test_hints_of_another_version_are_no_hints(http: httpx.Client, version: str, named: str) -> None:
    plain = http.post(CHAT, json=BODY)
    header = f'program="later", step="s1", v={version}, plan=tree'
    response = http.post(CHAT, json=BODY, headers={HINTS_HEADER: header})
    assert response.status_code == plain.status_code == 200
    assert response.json()["choices"] == plain.json()["choices"]
    ack = decode_ack(response.headers["x-llmd-ack"])
    (rejection,) = ack.rejected
    assert ack == Ack(rejected=(rejection,))
    assert rejection.hint == "hints"
    assert rejection.reason.startswith("version ")
    assert named in rejection.reason
    assert rejection.reason.endswith("(this is version 1)")
    assert http.get("/v1/agent/programs/later").status_code == 404


def test_unknown_members_and_parameters_are_named_and_the_rest_counts(http: httpx.Client) -> None:
    header = 'v=1, program="kept";colour=red, step="s1";effort=3, plan=(1 2);deep'
    ack = decode_ack(http.post(CHAT, json=BODY, headers={HINTS_HEADER: header}).headers["x-llmd-ack"])
    assert ack.accepted == ("program", "step")
    assert ack.rejected == ()
    assert ack.ignored == ("plan", "program;colour", "step;effort")
    assert http.get("/v1/agent/programs/kept").json()["steps"]


@pytest.mark.parametrize("version", [2, 17, 10**15])
def test_events_of_another_version_are_refused_with_the_reason(http: httpx.Client, version: int) -> None:
    response = http.post("/v1/agent/events", json={"version": version, "events": [JOINED], "plan": {}})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        f"not a batch of events: version {version} is not known (this is version 1)"
    )


def test_events_with_unknown_fields_count_and_unknown_events_are_refused_alone(http: httpx.Client) -> None:
    declared = {"id": "grows", "mood": "good"}
    events = [
        {"type": "program_started", "program": "grows", "at": 1, "declared": declared, "colour": "red"},
        {"type": "tool_paused", "program": "grows", "at": 2},
    ]
    response = http.post("/v1/agent/events", json={"version": 1, "events": events, "sent": 3})
    assert response.status_code == 202
    answer: dict[str, Any] = response.json()
    assert answer["accepted"] == 1
    (refused,) = answer["rejected"]
    assert refused["index"] == 1
    assert refused["reason"].startswith("event: ")
    assert "tool_paused" in refused["reason"]
    assert http.get("/v1/agent/programs/grows").status_code == 200
