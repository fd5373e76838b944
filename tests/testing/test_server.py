"""What the recording server keeps, how it waits, and that it leaves nothing behind."""

import contextlib
import gc
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from llmd_agents import instrument, program, tool_call
from llmd_agents.hints import (
    HINTS_HEADER,
    Hints,
    Program,
    ProgramFinished,
    ProgramStarted,
    Step,
    encode_events,
    encode_hints,
)
from llmd_agents.testing import Failure, Line, RecordingServer, Reply, recording_server

HELLO: Any = [{"role": "user", "content": "hello"}]
STARTED = ProgramStarted(program="p1", at=1, declared=Program(id="p1", name="essay"))
FINISHED = ProgramFinished(program="p1", at=2)


def call(client: OpenAI, headers: dict[str, str] | None = None) -> None:
    client.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)


def post(server: RecordingServer, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(server.url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_requests_are_kept_as_they_reached_the_wire() -> None:
    with (
        recording_server() as server,
        instrument(OpenAI(base_url=server.base_url, api_key="k")) as client,
        program("essay", priority=70) as run,
    ):
        with tool_call("search"):
            pass
        call(client, {"X-Extra": "1"})
    (recorded,) = server.calls
    assert (recorded.method, recorded.path, recorded.status) == ("POST", "/v1/chat/completions", 200)
    assert recorded.headers["x-extra"] == "1"
    assert recorded.json == {"model": "m", "messages": HELLO}
    assert recorded.hints is not None
    assert recorded.hints.program == run.declared
    assert (recorded.rejected, recorded.ignored, server.rejected) == ((), (), [])
    server.settle()
    assert [event.type for event in server.events] == [
        "program_started",
        "tool_started",
        "tool_finished",
        "program_finished",
    ]
    assert server.hints == [recorded.hints]


def test_bad_hints_are_kept_with_what_is_wrong() -> None:
    good = encode_hints(Hints(program=Program(id="p"), step=Step(id="s1"))) + ", zed=1"
    with recording_server() as server, OpenAI(base_url=server.base_url, api_key="k") as client:
        for value in ("((", 'program="p";priority=101, step="s"', good):
            call(client, {HINTS_HEADER: value})
        call(client)
    reasons = [[rejection.hint for rejection in request.rejected] for request in server.calls]
    assert reasons == [["hints"], ["program"], [], []]
    assert [request.hints is None for request in server.calls] == [True, True, False, True]
    assert server.calls[2].ignored == ("zed",)
    assert [rejection.hint for rejection in server.rejected] == ["hints", "program"]


def test_headers_may_hold_any_bytes() -> None:
    with recording_server() as server:
        assert post(server, "/v1/completions", b'{"model":"m"}', **{HINTS_HEADER: "\xe4\xff"})[0] == 200
    assert server.calls[0].headers[HINTS_HEADER] == "\xe4\xff"
    assert [rejection.hint for rejection in server.rejected] == ["hints"]


CONTENTS: list[Any] = [None, 1, "text", [{"text": {}}], [{"text": "a"}]]
VALUES: list[Any] = [None, True, 0, -1, 10**30, 1.5, "", "text", "\ud800", [], [1], ["\ud800"], [[]], {}]
VALUES += [[{"role": "user", "content": content}] for content in CONTENTS]
MEMBERS = ("messages", "input", "prompt", "stream", "n", "previous_response_id", "metadata", "dimensions")
BODIES = st.binary(max_size=20) | st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(VALUES)).map(
    lambda body: json.dumps({"model": "m", "messages": ["\ud800"], **body}).encode()
)
PATHS = ("chat/completions", "completions", "responses", "embeddings", "agent/events")


@pytest.fixture(scope="module")
def patient() -> Iterator[RecordingServer]:
    with recording_server(Line(lambda request: request.last_text, times=None)) as server:
        yield server


@given(
    st.sampled_from(["chat/completions", "completions", "responses", "embeddings", "agent/events"]), BODIES
)
def test_any_body_gets_an_answer(patient: RecordingServer, path: str, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(patient.url.rsplit(":", 1)[1]), timeout=5)
    with contextlib.closing(connection):
        connection.request("POST", f"/v1/{path}", body)
        response = connection.getresponse()
        response.read()
    assert response.status in (200, 400)


def test_a_body_nested_too_deeply(patient: RecordingServer) -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    status, answer = post(patient, "/v1/chat/completions", body)
    assert status == 400
    assert "nested too deeply" in answer["error"]["message"]


def test_events_endpoint() -> None:
    bad = b'{"version":1,"events":[{"type":"joined"},{"type":"program_finished","program":"p","at":1}]}'
    with recording_server() as server:
        assert post(server, "/v1/agent/events", encode_events([STARTED])) == (
            202,
            {"accepted": 1, "rejected": []},
        )
        status, answer = post(server, "/v1/agent/events", bad)
        assert (status, answer["accepted"], answer["rejected"][0]["index"]) == (202, 1, 0)
        assert post(server, "/v1/agent/events", b"[]")[0] == 400
    assert [event.type for event in server.events] == ["program_started", "program_finished"]
    assert len(server.rejected) == 1


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_without_events_is_not_waited_for(status: int) -> None:
    with (
        recording_server(events_status=status) as server,
        instrument(OpenAI(base_url=server.base_url, api_key=f"k{status}")) as client,
    ):
        with program("essay"), tool_call("search"):
            call(client)
        graph = server.graph("essay")
    assert graph.shape() == "step"
    assert graph.outcome is None
    assert not server.events
    assert not graph.tools


def test_settle_waits_for_the_end_of_programs() -> None:
    hints = encode_hints(Hints(program=Program(id="p1", name="essay"), step=Step(id="s1")))
    with recording_server() as server, OpenAI(base_url=server.base_url, api_key="k") as client:
        server.settle()
        call(client, {HINTS_HEADER: hints})
        with pytest.raises(TimeoutError, match=r"not finished within 0\.01 s: p1"):
            server.settle(timeout=0.01)
        with pytest.raises(TimeoutError, match="of 1 requests"):
            server.wait_for(lambda: False, timeout=0.01)
        finished = threading.Timer(
            0.05, post, (server, "/v1/agent/events", encode_events([STARTED, FINISHED]))
        )
        finished.start()
        server.settle()
        finished.join()
        assert server.graph().outcome == "ok"


def test_programs_that_nobody_declared_are_not_waited_for() -> None:
    with (
        recording_server() as server,
        instrument(OpenAI(base_url=server.base_url, api_key="k")) as client,
    ):
        with pytest.raises(LookupError, match="expected one program; seen: none"):
            server.graph()
        call(client)
        assert server.graph().name == "undeclared"
        with program("essay"):
            call(client)
        with pytest.raises(LookupError, match=r"one program; seen: undeclared \(.*essay \("):
            server.graph()
        with pytest.raises(LookupError, match="one program 'other'"):
            server.graph("other")
        assert server.graph("essay").outcome == "ok"


def test_only_the_latest_requests_are_kept() -> None:
    with recording_server(keep=3) as server, OpenAI(base_url=server.base_url, api_key="k") as client:
        for _ in range(5):
            call(client)
    assert (len(server.requests), server.forgotten) == (3, 2)


def test_retries_are_one_step() -> None:
    lines = (Failure(503, retry_after=0.01), "one", Failure(400), "two")
    with (
        recording_server(*lines) as server,
        instrument(OpenAI(base_url=server.base_url, api_key="k")) as client,
        program("p"),
    ):
        call(client)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="m", messages=[*HELLO, *HELLO])
        call(client)
    graph = server.graph()
    assert [(step.id, step.attempts, step.failed) for step in graph.steps] == [
        ("s1", 2, False),
        ("s2", 1, True),
        ("s3", 1, False),
    ]
    assert [(one.id, other.id) for one, other in graph.edges] == [("s1", "s2"), ("s1", "s3")]
    assert graph.shape() == "step > together(step | step!)"


def test_answers_that_wait_end_with_the_server(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = []

    def ask(server: RecordingServer, *, stream: bool) -> None:
        try:
            with OpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client:
                list(client.chat.completions.create(model="m", messages=HELLO, stream=stream))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    gate = threading.Event()
    lines = (Reply("x", until=gate), Reply("x", delay=3600), Reply(["a", "b"], piece_delay=3600))
    with recording_server(*lines) as server:
        threads = [
            threading.Thread(target=ask, args=(server,), kwargs={"stream": stream})
            for stream in (False, False, True)
        ]
        for thread in threads:
            thread.start()
            count = threads.index(thread) + 1
            server.wait_for(lambda count=count: len(server.calls) == count)  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(errors) == 3
    assert not caplog.records


def test_a_client_that_leaves_is_noticed() -> None:
    with (
        recording_server(Reply("x", delay=3600)) as server,
        OpenAI(base_url=server.base_url, api_key="k", max_retries=0, timeout=0.5) as client,
    ):
        with pytest.raises(openai.APITimeoutError):
            call(client)
        server.wait_for(lambda: any(request.broken_off for request in server.calls))
    assert server.calls[0].failed


def test_nothing_is_left_behind() -> None:
    gc.collect()
    before = set(threading.enumerate())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with recording_server() as server, OpenAI(base_url=server.base_url, api_key="k") as client:
            call(client)
            address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        gc.collect()
    assert not [str(warning.message) for warning in caught]
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=1)


def test_several_servers_at_once() -> None:
    with recording_server("a") as one, recording_server("b") as other:
        for server in (one, other):
            with OpenAI(base_url=server.base_url, api_key="k") as client:
                call(client)
        assert one.url != other.url
        assert [len(server.calls) for server in (one, other)] == [1, 1]
