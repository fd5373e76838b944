"""The router over HTTP, in front of real embedded engines: hostile hints, events, tenants, faults."""

import asyncio
import gzip
import http.client as http_client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmd_agents.engine import EngineServer
from llmd_agents.hints import Hints, Program, Step, chain, decode_ack, encode_hints, segments_of
from llmd_agents.router import EngineConfig, Router, RouterConfig, quiet
from llmd_agents.serving import Receive, Scope, Send, in_background, lifespan
from tests.stack.servers import Stack, engine_process, get_json, small_profile, stack, wait_for

CHAT = "/v1/chat/completions"


def body(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts], **more}


def hint(value: dict[str, Any], program: str = "p", step: str = "s1") -> dict[str, str]:
    declared = Hints(program=Program(id=program), step=Step(id=step), segments=segments_of(chain(value)))
    return {"x-llmd-hints": encode_hints(declared)}


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack(2) as running:
        yield running


@pytest.fixture
def http(servers: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers.router, timeout=30) as client:
        yield client


# --- hints


def test_good_hints_are_acknowledged(http: httpx.Client) -> None:
    response = http.post(CHAT, json=body("hello"), headers=hint(body("hello")))
    ack = decode_ack(response.headers["x-llmd-ack"])
    assert ack.accepted == ("program", "step", "segments")
    assert not ack.rejected


def test_no_hints_no_ack(http: httpx.Client) -> None:
    assert "x-llmd-ack" not in http.post(CHAT, json=body("hello")).headers


@pytest.mark.parametrize(
    ("header", "rejected"),
    [
        ("((((", "hints"),
        ("v=2, program=x, step=y", "hints"),
        ("x" * 2049, "hints"),
        ("\xff\xfe\x80", "hints"),
        ('program="p", step="s", fork="f";index=9;width=3', "fork"),
        ('program="' + "a" * 65 + '", step="s"', "program"),
        ("program=?1, step=1.0, segments=:AA==:", "program"),
        ('program="p";name=%"%f0", step="s"', "hints"),
        ('program="p", step="s", cut=(1)', "cut"),
    ],
)
def test_bad_hints_change_nothing_but_the_ack(http: httpx.Client, header: str, rejected: str) -> None:
    plain = http.post(CHAT, json=body("same")).json()
    response = http.post(CHAT, json=body("same"), headers={b"x-llmd-hints": header.encode("latin-1")})
    assert response.status_code == 200
    assert response.json()["choices"] == plain["choices"]
    assert rejected in [item.hint for item in decode_ack(response.headers["x-llmd-ack"]).rejected]


def test_unknown_members_are_named_and_the_rest_counts(http: httpx.Client, servers: Stack) -> None:
    header = 'program="later";mood=good, step="s1", plan=(1 2)'
    ack = decode_ack(http.post(CHAT, json=body("x"), headers={"x-llmd-hints": header}).headers["x-llmd-ack"])
    assert ack.accepted == ("program", "step")
    assert ack.ignored == ("plan", "program;mood")
    assert len(servers.program("later")["steps"]) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")))
def test_any_header_at_all(http: httpx.Client, header: str) -> None:
    response = http.post(
        CHAT, json=body("any", max_tokens=1), headers={b"x-llmd-hints": header.strip().encode("latin-1")}
    )
    assert response.status_code == 200


def test_bad_hints_are_logged_once_a_minute(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_last", {})
    with caplog.at_level(logging.DEBUG):
        for _ in range(20):
            http.post(CHAT, json=body("x", max_tokens=1), headers={"x-llmd-hints": "(((("})
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_an_unknown_base_is_made_good_from_the_body(http: httpx.Client, servers: Stack) -> None:
    first = body("y" * 3000)
    links = chain(first)
    unknown = Hints(program=Program(id="moved"), step=Step(id="s7"), extends=links[-1].digest)
    response = http.post(CHAT, json=first, headers={"x-llmd-hints": encode_hints(unknown)})
    assert not decode_ack(response.headers["x-llmd-ack"]).resync
    (branch,) = servers.program("moved")["branches"]
    assert branch["context_bytes"] == links[-1].size


@pytest.mark.parametrize(
    "path", ["/v1/../reset_prefix_cache", "/v1/%2e%2e/reset_prefix_cache", "/v1/..%2fmetrics", "/v1/./models"]
)
def test_no_path_leads_out_of_the_api(servers: Stack, path: str) -> None:
    host, port = servers.router.removeprefix("http://").split(":")
    connection = http_client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest("POST", path, skip_host=False)
    connection.putheader("content-length", "0")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 400
    assert b"segments" in response.read()
    connection.close()


def test_a_request_head_without_end_is_cut_off(servers: Stack) -> None:
    host, port = servers.router.removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port)), timeout=10) as connection, suppress(OSError):
        connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        for _ in range(1000):
            connection.sendall(b"y" * 65_536)
            sent += 65_536
    assert sent < 1000 * 65_536


# --- events and views


def test_events(http: httpx.Client, servers: Stack) -> None:
    events = [
        {"type": "program_started", "program": "e1", "at": 1, "declared": {"id": "e1", "name": "events"}},
        {"type": "tool_started", "program": "e1", "at": 2, "call": "t1", "tool": "search"},
        {"type": "tool_started", "program": "nobody", "at": 2, "call": "t1", "tool": "search"},
        {"type": "nonsense"},
    ]
    response = http.post("/v1/agent/events", json={"version": 1, "events": events})
    assert response.status_code == 202
    answer = response.json()
    assert answer["accepted"] == 2
    assert [item["index"] for item in answer["rejected"]] == [2, 3]
    assert answer["rejected"][0]["reason"] == "tool_started: unknown program"
    assert servers.program("e1")["tools"][0]["tool"] == "search"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 3, "events": []}', b"\xff"])
def test_bad_batches(http: httpx.Client, data: bytes) -> None:
    response = http.post("/v1/agent/events", content=data)
    assert response.status_code == 400
    assert "not a batch of events" in response.json()["error"]["message"]


def test_oversized_batches(http: httpx.Client) -> None:
    assert http.post("/v1/agent/events", content=b"x" * (1 << 20 | 1)).status_code == 413


def test_unknown_routes_and_programs(http: httpx.Client) -> None:
    for method, path in (
        ("GET", "/nope"),
        ("GET", "/v1/agent/programs/nope"),
        ("DELETE", "/v1/agent/events"),
    ):
        response = http.request(method, path)
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_health_ready_metrics(http: httpx.Client) -> None:
    http.post(CHAT, json=body("count me"), headers={"x-llmd-hints": "(((("})
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"engines_up": 2, "engines": 2}
    text = http.get("/metrics").text
    for line in (
        'llmd_router_hints_total{result="rejected"}',
        'llmd_router_engine_up{engine="engine-0"} 1.0',
    ):
        assert line in text


def test_residency_follows_the_engines(servers: Stack, http: httpx.Client) -> None:
    value = body("r" * 8000)
    http.post(CHAT, json=value, headers=hint(value, program="resident"))

    def residency() -> Any:
        return servers.program("resident")["branches"][0]["residency"]

    wait_for(lambda: any(held["certain"] for held in residency().values()))
    (engine,) = residency()
    index = int(engine.removeprefix("engine-"))
    assert residency()[engine]["tiers"] == {"device": 2002}
    httpx.post(f"{servers.engines[index]}/reset_prefix_cache").raise_for_status()
    wait_for(lambda: residency() == {})


# --- tenants


def test_tenants_are_told_apart_by_key() -> None:
    tenants = ({"name": "red", "api_keys": ["r1"]}, {"name": "blue", "api_keys": ["b1"]})
    value = body("secret " * 400, max_tokens=1)
    with stack(1, tenants=tenants) as servers, httpx.Client(base_url=servers.router) as http:

        def call(key: str, **more: Any) -> httpx.Response:
            return http.post(
                CHAT, json={**value, **more}, headers={"authorization": f"Bearer {key}", **hint(value)}
            )

        assert call("nobody").status_code == 401
        assert http.get("/v1/models").status_code == 401
        usage = [
            call(key, cache_salt="forged").json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            for key in ("r1", "b1", "r1")
        ]
        # The same text: one tenant's cache serves that tenant alone, whatever salt it asks for.
        assert usage[:2] == [0, 0]
        assert usage[2] > 600
        for key, steps in (("r1", 1), ("b1", 1)):
            view = http.get("/v1/agent/programs/p", headers={"authorization": f"Bearer {key}"})
            assert len(view.json()["steps"]) == steps
            assert view.json()["steps"][0]["attempts"] == (2 if key == "r1" else 1)


# --- faults


def test_no_engine_answers() -> None:
    with stack(1) as servers:
        dead = servers.engines[0]
    with router_for(dead, "http://127.0.0.1:9") as router, httpx.Client(base_url=router) as http:
        response = http.post(CHAT, json=body("x"), headers=hint(body("x")))
        assert response.status_code == 503
        error = response.json()["error"]
        assert "tried 2 engines, none answered" in error["message"]
        assert (error["type"], error["code"]) == ("server_error", "no_engine_available")
        assert "x-llmd-ack" in response.headers
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200


def router_for(*urls: str) -> AbstractContextManager[str]:
    return in_background(Router(RouterConfig(engines=tuple(EngineConfig(url=url) for url in urls))))


class Misbehaving:
    """An engine that fails in a given way at each chat completion."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.calls = 0
        self.accepts = False
        self.cancelled = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":

            async def nothing() -> None:
                return None

            await lifespan(receive, send, nothing, nothing)
            return
        if scope["path"] != CHAT:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        self.calls += 1
        self.accepts = any(name == b"accept-encoding" for name, _ in scope["headers"])
        await getattr(self, "_" + self.way)(receive, send)

    async def _unavailable(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"busy"})

    async def _breaks_at_once(self, receive: Receive, send: Send) -> None:
        await self._breaks_before_body(receive, send)

    async def _compresses(self, receive: Receive, send: Send) -> None:
        accepted = b"something" if self.accepts else b"nothing"
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"content-encoding", b"gzip"),
            (b"x-accepts", accepted),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": gzip.compress(b"data: [DONE]\n\n")})

    async def _breaks_before_body(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise RuntimeError

    async def _breaks_in_stream(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        part = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError

    async def _hangs(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancelled.set()


@pytest.mark.parametrize("way", ["unavailable", "breaks_before_body"])
def test_another_engine_takes_over(way: str) -> None:
    bad = Misbehaving(way)
    with stack([bad, EngineServer(small_profile(), time_scale=1000)]) as servers:
        with httpx.Client(base_url=servers.router) as http:
            for number in range(10):
                value = body(f"{number}")
                assert (
                    http.post(CHAT, json=value, headers=hint(value, program=f"p{number}")).status_code == 200
                )
        assert bad.calls > 0
        steps = [servers.program(f"p{number}")["steps"][0] for number in range(10)]
        assert {step["engine"] for step in steps} == {"engine-1"}
        view = servers.engine_views()
        assert view[0]["failed"] > 0
        assert [engine["running"] for engine in view] == [0, 0]


def test_a_stream_that_breaks_ends_in_an_error_event() -> None:
    with stack([Misbehaving("breaks_in_stream")]) as servers:
        response = httpx.post(servers.router + CHAT, json=body("x", stream=True))
        events = [line for line in response.text.split("\n\n") if line]
        assert "half" in events[0]
        assert "broke off" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
        assert servers.engine_views()[0]["running"] == 0


def test_an_engine_that_hangs_is_given_up() -> None:
    hanging = Misbehaving("hangs")
    with stack([hanging, hanging], answer_timeout_s=0.2) as servers:
        response = httpx.post(servers.router + CHAT, json=body("x"))
        assert response.status_code == 504
        assert "engine-0 gave no answer within 0.2 s" in response.json()["error"]["message"]
        assert hanging.cancelled.wait(5)
        assert hanging.calls == 1


def test_a_client_that_leaves_stops_the_engine() -> None:
    hanging = Misbehaving("hangs")
    with stack([hanging]) as servers:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(servers.router + CHAT, json=body("x"), headers=hint(body("x")), timeout=0.2)
        assert hanging.cancelled.wait(5)
        wait_for(lambda: servers.program("p")["steps"][0]["status"] == "cancelled")
        assert servers.engine_views()[0]["running"] == 0


def test_a_client_that_leaves_in_a_stream_stops_the_engine() -> None:
    with stack(1, time_scale=1.0) as servers:
        with (
            httpx.Client() as http,
            http.stream(
                "POST", servers.router + CHAT, json=body("x", stream=True, max_tokens=4000, ignore_eos=True)
            ) as response,
        ):
            next(response.iter_bytes())
        engine = servers.engines[0]
        wait_for(lambda: 'num_requests_running{model_name="tiny"} 0.0' in httpx.get(f"{engine}/metrics").text)
        wait_for(lambda: servers.engine_views()[0]["running"] == 0)


def test_a_salt_cannot_be_kept_out_by_another_encoding() -> None:
    tenants = ({"name": "red", "api_keys": ["r1"]},)
    with stack(1, tenants=tenants) as servers:
        value = json.dumps(body("x"))
        for data, more in (
            (value.encode("utf-16-le"), {}),
            (value.encode("utf-32"), {}),
            (b"[" + value.encode() + b"]", {}),
            (value.encode(), {"content-encoding": "gzip"}),
            (b'{"model": "\xff"}', {}),
        ):
            headers = {"authorization": "Bearer r1", "content-type": "application/json", **more}
            response = httpx.post(servers.router + CHAT, content=data, headers=headers)
            assert response.status_code == 400
            assert "JSON object in UTF-8" in response.json()["error"]["message"]


def test_a_request_that_brings_engines_down_does_not_visit_them_all() -> None:
    engines = [Misbehaving("breaks_at_once") for _ in range(6)]
    with stack(engines) as servers:
        response = httpx.post(servers.router + CHAT, json=body("poison"))
        assert response.status_code == 503
        assert "tried 3 engines" in response.json()["error"]["message"]
        assert sum(engine.calls > 0 for engine in engines) == 3


def test_compressed_streams_are_not_asked_for_and_pass_unread() -> None:
    with stack([Misbehaving("compresses")]) as servers, httpx.Client() as http:
        response = http.post(servers.router + CHAT, json=body("x", stream=True))
        assert response.text == "data: [DONE]\n\n"
        assert response.headers["x-accepts"] == "nothing"


def test_large_bodies_are_read_too(servers: Stack, http: httpx.Client) -> None:
    value = body(*["z" * 1000] * 700, max_tokens=1)
    unknown = Hints(program=Program(id="large"), step=Step(id="s1"), extends=b"0" * 16)
    response = http.post(CHAT, json=value, headers={"x-llmd-hints": encode_hints(unknown)})
    assert response.status_code == 400  # beyond the tiny engine's context
    (branch,) = servers.program("large")["branches"]
    assert branch["residency"] == {}
    assert servers.program("large")["steps"][0]["status"] == "refused"
    assert branch["context_bytes"] == sum(link.size for link in chain(value))


def test_bodies_beyond_the_limit() -> None:
    with stack(1, max_body_bytes=1000) as servers:
        assert httpx.post(servers.router + CHAT, content=b"x" * 1001).status_code == 413


def test_a_killed_engine_loses_nothing_that_had_not_begun() -> None:
    """Two engine processes share 24 calls; one of them is killed while it has at least 8."""
    options = ("--profile", "tiny", "--time-scale", "0.05")
    with (
        engine_process(*options) as (victim, victim_url),
        engine_process(*options) as (_, other_url),
        router_for(victim_url, other_url) as router,
    ):

        def running() -> int:
            return int(get_json(f"{router}/v1/agent/engines")["engines"][0]["running"])

        async def main() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=router, timeout=60) as http:
                values = [
                    body(f"{number} " + "z" * 800, stream=number % 3 == 0, max_tokens=3)
                    for number in range(24)
                ]
                calls = [asyncio.create_task(http.post(CHAT, json=value)) for value in values]
                for _ in range(1000):
                    if await asyncio.to_thread(running) >= 8:
                        break
                victim.kill()
                return await asyncio.gather(*calls)

        responses = asyncio.run(main())
        failed = get_json(f"{router}/v1/agent/engines")["engines"][0]["failed"]
    assert failed >= 8
    for response in responses:
        assert response.status_code == 200
        if "engine_failed" in response.text:
            assert '"role":"assistant"' in response.text  # this stream had begun
        else:
            assert '"finish_reason":"length"' in response.text
