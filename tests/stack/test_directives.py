"""Directives over HTTP: from hints through the router to engines, and engines that take them badly."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_agents.engine import EngineServer
from llmd_agents.hints import (
    KV_PATH,
    Directive,
    DirectiveOutcome,
    EngineKv,
    EngineRates,
    Forecast,
    ForkPosition,
    Hints,
    Next,
    Outcomes,
    Program,
    Release,
    Retain,
    Step,
    chain,
    decode_ack,
    decode_directives,
    encode_hints,
    segments_of,
)
from llmd_agents.hints.directives import DIRECTIVE_TYPES
from llmd_agents.router import EngineConfig, Router, RouterConfig, delivery, quiet
from llmd_agents.router.directive_queue import DirectiveQueue
from llmd_agents.runtime import redecide
from llmd_agents.serving import Receive, Scope, Send, in_background, read_body, send_bytes
from tests.stack.servers import FAST, Stack, get_json, given_again, small_profile, stack, wait_for

CHAT = "/v1/chat/completions"
EVENTS = "/v1/agent/events"
MODE = "/v1/agent/mode"
RATES = EngineRates(
    prefill_s_per_token=1e-4, step_s=2e-3, decode_s_per_seq=1e-4, decode_s_per_context_token=1e-7
)


@dataclasses.dataclass
class Sent:
    headers: dict[bytes, bytes]
    body: Any


class KvEngine:
    """An embedded engine that answers `/v1/agent/kv` in a given way and keeps what it is sent.

    Attributes:
        way: how directives are answered: `applied`, a status, or what else may go wrong.
        looks: how often it was asked what it can do.
    """

    def __init__(
        self,
        way: str = "applied",
        *,
        looking: str = "kv",
        directives: tuple[str, ...] = DIRECTIVE_TYPES,
        epoch: str = "e1",
    ) -> None:
        self.way = way
        self.looking = looking
        self.looks = 0
        self.kv = EngineKv(epoch=epoch, directives=directives, rates=RATES)
        self.server = EngineServer(small_profile(), time_scale=FAST, epoch=epoch)
        self.messages: list[list[Directive]] = []
        self.calls: list[Sent] = []

    @property
    def directives(self) -> list[Directive]:
        return [directive for message in self.messages for directive in message]

    def close(self) -> None:
        self.server.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == KV_PATH:
            await self._kv(scope["method"], receive, send)
            return
        if scope["type"] == "http" and scope["path"] == CHAT:
            body = await read_body(receive, limit=1 << 24)
            self.calls.append(Sent(dict(scope["headers"]), json.loads(body)))
            receive = given_again(body, receive)
        await self.server(scope, receive, send)

    async def _kv(self, method: str, receive: Receive, send: Send) -> None:
        data = await read_body(receive, limit=1 << 24)
        if method == "GET":
            self.looks += 1
            await self._answer(self.looking, self.kv.model_dump_json().encode(), receive, send)
            return
        message = decode_directives(data)
        self.messages.append([action[1] for action in message.actions if isinstance(action, tuple)])
        outcomes = tuple(
            DirectiveOutcome(action_id=action[0], outcome="applied", tokens=1)
            for action in message.actions
            if isinstance(action, tuple)
        )
        answer = Outcomes(message_id=message.message_id, outcomes=outcomes if self.way != "none" else ())
        await self._answer(self.way, answer.model_dump_json().encode(), receive, send)

    async def _answer(self, way: str, good: bytes, receive: Receive, send: Send) -> None:
        if way.isdigit():
            await send_bytes(send, int(way), b"{}", b"application/json")
        elif way == "garbage":
            await send_bytes(send, 200, b"\xff<html>", b"application/json")
        elif way == "too long":
            await send_bytes(send, 200, b" " * (8 << 20), b"application/json")
        elif way == "hangs":
            while (await receive())["type"] != "http.disconnect":
                pass
        elif way == "breaks":
            raise RuntimeError
        else:
            await send_bytes(send, 200, good, b"application/json")


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}


@dataclasses.dataclass
class Agent:
    """A client of the router, as an instrumented one behaves on the wire."""

    router: str
    key: str | None = None
    steps: int = 0

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}

    def call(
        self, value: dict[str, Any], program: str = "p", forecast: Forecast | None = None, **step: Any
    ) -> httpx.Response:
        self.steps += 1
        hints = Hints(
            program=Program(id=program),
            step=Step(id=f"s{self.steps}", **step),
            segments=segments_of(chain(value)),
            forecast=forecast,
        )
        headers = {**self._headers, "x-llmd-hints": encode_hints(hints)}
        return httpx.post(self.router + CHAT, json=value, headers=headers, timeout=30)

    def plain(self, value: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.router + CHAT, json=value, headers=self._headers, timeout=30)

    def event(self, kind: str, program: str = "p", **fields: Any) -> Any:
        event = {"type": kind, "program": program, "at": 1, **fields}
        answer = httpx.post(
            self.router + EVENTS, json={"version": 1, "events": [event]}, headers=self._headers, timeout=30
        )
        return answer.raise_for_status().json()

    def waits_for_a_tool(self, value: dict[str, Any], program: str = "p") -> bytes:
        """Makes a step and starts a tool after it; returns the digest of its context."""
        assert self.call(value, program).status_code == 200
        self.event("tool_started", program, call=f"t{self.steps}", tool="search", expected=8, sigma=0.5)
        return chain(value)[-1].digest

    def mode(self, wanted: str) -> httpx.Response:
        return httpx.put(self.router + MODE, json={"mode": wanted}, headers=self._headers)


@contextmanager
def ready(*engines: KvEngine, **config: Any) -> Iterator[tuple[Stack, Agent]]:
    """Runs engines and a router that has found out what they can do."""
    with stack(engines, **config) as servers:
        wait_for(lambda: all(engine.looks for engine in engines))
        takes = sum(engine.looking == "kv" for engine in engines)
        states = servers.brain.runtime.engines.values()
        wait_for(lambda: sum(state.kv is not None and state.epoch is not None for state in states) == takes)
        yield servers, Agent(servers.router)


@pytest.fixture(autouse=True)
def _warnings_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_last", {})


def became(servers: Stack, program: str) -> Any:
    """Returns what became of a program's directives, by type and outcome."""
    return servers.program(program)["directives"]


def takes(servers: Stack, directives: list[str]) -> bool:
    return bool(servers.engine_views()[0]["directives"] == directives)


def metric(servers: Stack, line: str) -> float:
    for one in httpx.get(f"{servers.router}/metrics").text.splitlines():
        if one.startswith(line + " "):
            return float(one.rsplit(" ", 1)[1])
    return 0.0


def outcomes(servers: Stack, kind: str, outcome: str) -> float:
    return metric(
        servers, f'llmd_router_directives_total{{engine="engine-0",outcome="{outcome}",type="{kind}"}}'
    )


# --- delivery


def test_a_wait_becomes_an_estimate_and_an_end_a_release() -> None:
    engine = KvEngine()
    with ready(engine) as (servers, agent):
        digest = agent.waits_for_a_tool(body("r" * 400))
        wait_for(lambda: engine.directives)
        (retain,) = engine.directives
        assert isinstance(retain, Retain)
        assert (retain.digest, retain.scope, round(retain.after, 6)) == (digest, None, 8)
        wait_for(lambda: servers.program("p")["directives"] == {"retain": {"applied": 1}})
        agent.event("program_finished")
        wait_for(lambda: "release" in servers.program("p")["directives"])
        assert servers.program("p")["directives"]["release"] == {"applied": 1}
        assert isinstance(engine.directives[-1], Release)
        assert outcomes(servers, "retain", "applied") == outcomes(servers, "release", "applied") == 1


def test_many_directives_travel_in_few_messages() -> None:
    engine = KvEngine()
    with ready(engine) as (servers, agent):
        programs = [f"p{number}" for number in range(50)]
        for program in programs:
            agent.call(body(f"{program} " + "m" * 200), program)
        events = [{"type": "program_finished", "program": program, "at": 1} for program in programs]
        httpx.post(servers.router + EVENTS, json={"version": 1, "events": events})
        wait_for(lambda: len(engine.directives) == 50)
        assert len(engine.messages) == 1


def test_directives_carry_the_tenants_scope_and_name_only_its_programs() -> None:
    engine = KvEngine()
    tenants = ({"name": "red", "api_keys": ["r1"]}, {"name": "blue", "api_keys": ["b1"]})
    with ready(engine, tenants=tenants) as (servers, _):
        red, blue = Agent(servers.router, "r1"), Agent(servers.router, "b1")
        red.waits_for_a_tool(body("of red" * 100), "secret-plan")
        wait_for(lambda: engine.directives)
        assert engine.directives[0].scope == servers.brain.runtime._tenants["red"].scope is not None
        for kind, fields in (("program_finished", {}), ("branch_ended", {"branch": "main"})):
            answer = blue.event(kind, "secret-plan", **fields)
            assert answer == {"accepted": 0, "rejected": [{"index": 0, "reason": f"{kind}: unknown program"}]}
        # The same text, digests and program id: blue's own, which says nothing about red's.
        blue.waits_for_a_tool(body("of red" * 100), "secret-plan")
        blue.event("program_finished", "secret-plan")
        wait_for(lambda: any(isinstance(one, Release) for one in engine.directives))
        scopes = {one.scope for one in engine.directives if isinstance(one, Release)}
        assert scopes == {servers.brain.runtime._tenants["blue"].scope}


@pytest.mark.parametrize("status", ["404", "405", "501"])
def test_an_engine_without_the_interface_is_left_alone(status: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = KvEngine(looking=status)
    with ready(engine) as (servers, agent):
        agent.waits_for_a_tool(body("n" * 400))
        agent.event("program_finished")
        assert servers.program("p")["directives"] == {}
    assert engine.messages == []
    assert engine.looks <= 2  # at the start, and when its epoch became known
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("status", ["404", "405", "501"])
def test_an_engine_that_turns_out_to_take_no_directives(status: str) -> None:
    engine = KvEngine(status)
    with ready(engine) as (servers, agent):
        agent.waits_for_a_tool(body("n" * 400))
        wait_for(lambda: servers.program("p")["directives"] == {"retain": {"undelivered": 1}})
        assert servers.brain.runtime.engines["engine-0"].kv is None
        agent.event("program_finished")
        assert agent.call(body("next"), "q").status_code == 200
        assert outcomes(servers, "retain", "undelivered") == 1
    assert len(engine.messages) == 1


@pytest.mark.parametrize("way", ["500", "garbage", "none", "hangs", "too long", "breaks"])
def test_an_engine_that_answers_badly_is_warned_of_once_and_left_alone(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.1)
    engine = KvEngine(way)
    with ready(engine) as (servers, agent):
        for number in range(3):
            agent.waits_for_a_tool(body(f"{number} " + "b" * 400), f"p{number}")
            wait_for(partial(became, servers, f"p{number}"))
            assert servers.program(f"p{number}")["directives"] == {"retain": {"undelivered": 1}}
        state = servers.brain.runtime.engines["engine-0"]
        wait_for(lambda: state.kv is None)
        agent.waits_for_a_tool(body("4 " + "b" * 400), "p4")
        assert servers.program("p4")["directives"] == {}
        assert agent.call(body("on")).status_code == 200
        assert (state.up, state.failed) == (True, 0)
    assert len(engine.messages) == 3
    warnings = [record for record in caplog.records if record.name == "llmd_agents.router"]
    assert [record.levelno for record in warnings] == [logging.WARNING]
    assert "engine-0 gets no directives for a while" in warnings[0].message


def test_directives_that_hang_hold_no_call_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 60)
    engine = KvEngine("hangs")
    with ready(engine) as (_, agent):
        agent.waits_for_a_tool(body("h" * 400))
        wait_for(lambda: engine.messages)
        for number in range(20):
            assert agent.call(body(f"{number}")).status_code == 200
        assert len(engine.messages) == 1


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 60)
    monkeypatch.setattr(delivery, "DirectiveQueue", partial(DirectiveQueue, most=2))
    engine = KvEngine("hangs")
    with ready(engine) as (servers, agent):
        for number in range(5):  # one is being sent, two wait, and for two there is no room
            agent.waits_for_a_tool(body(f"{number} " + "q" * 400), f"p{number}")
            wait_for(lambda: engine.messages)
        wait_for(lambda: metric(servers, 'llmd_router_directives_dropped_total{engine="engine-0"}') == 2)
        counts = [servers.program(f"p{number}")["directives"] for number in range(5)]
        assert counts == [{}, *[{"retain": {"undelivered": 1}}] * 2, {}, {}]


def test_one_bad_answer_is_forgiven() -> None:
    engine = KvEngine("500")
    with ready(engine) as (servers, agent):
        for number in range(6):
            engine.way = "applied" if number % 3 == 2 else "500"
            agent.waits_for_a_tool(body(f"{number} " + "f" * 400), f"p{number}")
            wait_for(partial(became, servers, f"p{number}"))
        assert outcomes(servers, "retain", "applied") == 2
        assert outcomes(servers, "retain", "undelivered") == 4


@pytest.mark.parametrize("looking", ["500", "garbage", "hangs"])
def test_an_engine_is_asked_again_later(
    looking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(delivery, "PAUSE_SECONDS", 0.05)
    engine = KvEngine(looking=looking)
    with ready(engine) as (servers, agent):
        wait_for(lambda: engine.looks > 2)
        assert agent.call(body("on")).status_code == 200
        engine.looking = "kv"
        wait_for(lambda: servers.engine_views()[0]["directives"])
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_an_engine_that_learns_what_its_work_costs_is_asked_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "REFRESH_SECONDS", 0.05)
    engine = KvEngine()
    with ready(engine) as (servers, _):
        rates = engine.kv.rates
        assert rates is not None
        learned = rates.model_copy(update={"prefill_s_per_token": 12.5 * rates.prefill_s_per_token})
        engine.kv = engine.kv.model_copy(update={"rates": learned})

        def heard() -> bool:
            kv = servers.brain.runtime.engines["engine-0"].kv
            return kv is not None and kv.rates == learned

        wait_for(heard)


@pytest.mark.parametrize("looking", ["500", "garbage", "hangs"])
def test_an_engine_that_is_asked_again_in_vain_still_gets_directives(
    looking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(delivery, "REFRESH_SECONDS", 0.05)
    engine = KvEngine()
    with ready(engine) as (servers, agent):
        engine.looking, looks = looking, engine.looks
        wait_for(lambda: engine.looks > looks + 2)
        assert servers.engine_views()[0]["directives"]
        agent.waits_for_a_tool(body("r" * 400), "p")
        wait_for(lambda: outcomes(servers, "retain", "applied"))
        engine.looking = "404"
        wait_for(lambda: not servers.engine_views()[0]["directives"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_engine_is_found_whenever_it_starts_and_restarts() -> None:
    with in_background(KvEngine()) as url:
        port = int(url.rsplit(":", 1)[1])
    router = Router(RouterConfig(engines=(EngineConfig(url=url),), health_interval_s=0.02))
    with in_background(router) as at:
        servers, agent = Stack(at, (url,), router), Agent(at)
        wait_for(lambda: not servers.engine_views()[0]["up"])
        for epoch, directives in (("e1", ["retain"]), ("e2", ["retain", "release"])):
            engine = KvEngine(directives=tuple(directives), epoch=epoch)
            with in_background(engine, port=port):
                wait_for(partial(takes, servers, directives))
                agent.waits_for_a_tool(body(epoch * 200), epoch)
                wait_for(partial(bool, engine.messages))
            wait_for(lambda: not servers.engine_views()[0]["up"])
            assert servers.engine_views()[0]["directives"] == []


def test_a_new_epoch_is_asked_what_it_can_do() -> None:
    engine = KvEngine()
    with ready(engine) as (servers, agent):
        engine.kv = engine.kv.model_copy(update={"epoch": "e2", "directives": ("release",)})
        engine.server._feed.epoch = "e2"
        agent.call(body("y" * 400))
        wait_for(lambda: servers.engine_views()[0]["directives"] == ["release"])


# --- embedded engines, which carry directives out


@contextmanager
def acting(count: int, *, time_scale: float = FAST, **profile: Any) -> Iterator[tuple[Stack, Agent]]:
    engines = [EngineServer(small_profile(**profile), time_scale=time_scale) for _ in range(count)]
    with stack(engines) as servers:
        states = servers.brain.runtime.engines.values()
        wait_for(lambda: all(state.kv is not None and state.epoch is not None for state in states))
        yield servers, Agent(servers.router)


def test_an_embedded_engine_keeps_estimates_and_gives_up_what_is_dead() -> None:
    with acting(1, time_scale=1) as (servers, agent):  # estimates expire in modelled time
        value = body("kept " * 400)
        agent.waits_for_a_tool(value)
        wait_for(lambda: became(servers, "p") == {"retain": {"applied": 1}})
        kv = get_json(servers.engines[0] + KV_PATH)
        assert kv["retained"] == {"": 496}
        agent.event("program_finished")
        wait_for(lambda: became(servers, "p").get("release") == {"applied": 1})
        assert agent.plain(value).json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 400
        text = httpx.get(servers.engines[0] + "/metrics").text
        for kind in ("retain", "release"):
            line = f'llmd_engine_directives_total{{model_name="tiny",outcome="applied",type="{kind}"}} 1.0'
            assert line in text


def test_a_forecast_fork_is_copied_to_the_other_engine_before_it_begins() -> None:
    with acting(2, num_blocks=4097) as (servers, agent):
        value = body("shared " * 4000)
        agent.call({**value, "stream": True, "max_tokens": 16}, forecast=FORK)
        wait_for(lambda: became(servers, "p").get("prefetch") == {"applied": 1})
        wait_for(lambda: len(servers.program("p")["branches"][0]["residency"]) == 2)
        agent.event("fork_declared", fork="f", width=8)
        usage = []
        for index in range(8):
            child = {**value, "messages": [*value["messages"], {"role": "user", "content": f"{index}"}]}
            fork = ForkPosition(id="f", index=index, width=8)
            answer = agent.call(child, branch=f"b{index}", fork=fork, parents=("s1",)).json()
            usage.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        engines = {step["engine"] for step in servers.program("p")["steps"]}
        assert engines == {"engine-0", "engine-1"}
        assert min(usage) > 6900


def test_what_waits_in_the_host_tier_is_fetched_before_its_branch_is_back() -> None:
    tiers_of_tiny = {"num_blocks": 385, "host_blocks": 4096, "host_bytes_per_s": 1e9}
    with acting(1, time_scale=1, **tiers_of_tiny) as (servers, agent):
        agent.call(body("a" * 6_000))
        for other in "bcde":
            agent.call(body(other * 8_000), f"p{other}")

        def tiers() -> Any:
            (held,) = servers.program("p")["branches"][0]["residency"].values()
            return sorted(held["tiers"])

        wait_for(lambda: tiers() == ["host"])
        agent.event("tool_started", call="t1", tool="slow", expected=2, sigma=0.3)
        wait_for(lambda: became(servers, "p").get("prefetch") == {"applied": 1})
        wait_for(lambda: tiers() == ["device", "host"])


# --- warm-ups


FORK = Forecast(next=Next.FORK, fan_out=200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fork_that_is_forecast_warms_the_other_engine(stream: bool) -> None:
    engines = [KvEngine(looking="404"), KvEngine(looking="404")]
    tenants = ({"name": "red", "api_keys": ["r1"]},)
    with ready(*engines, tenants=tenants) as (servers, _):
        agent = Agent(servers.router, "r1")
        value = body(
            "w" * 8000, stream=stream, max_completion_tokens=3, stream_options={"include_usage": True}
        )
        if not stream:
            del value["stream_options"]
        assert agent.call(value, forecast=FORK).status_code == 200
        wait_for(lambda: all(engine.calls for engine in engines))
        (warm,) = [sent for engine in engines for sent in engine.calls if b"x-llmd-warm-up" in sent.headers]
        (step,) = [
            sent for engine in engines for sent in engine.calls if b"x-llmd-warm-up" not in sent.headers
        ]
        assert b"x-llmd-hints" not in warm.headers
        assert b"authorization" not in warm.headers
        assert warm.body["messages"] == value["messages"]
        assert warm.body["cache_salt"] == step.body["cache_salt"]
        assert (warm.body["max_tokens"], warm.body["stream"], warm.body["priority"]) == (1, False, 2**31 - 1)
        assert (warm.body["max_completion_tokens"], warm.body.get("stream_options")) == (None, None)
        headers = {"authorization": "Bearer r1"}

        def program() -> Any:
            return httpx.get(f"{servers.router}/v1/agent/programs/p", headers=headers).json()

        wait_for(lambda: program()["directives"] == {"warm": {"applied": 1}})
        assert len(program()["steps"]) == 1
        text = httpx.get(f"{servers.router}/metrics").text
        assert 'outcome="applied"} 1.0' in text.split("llmd_router_warm_ups_total{")[1].splitlines()[0]
        # The context is there for the fork's branches.
        child = {**value, "messages": [*value["messages"], {"role": "user", "content": "b"}]}
        cached = [
            httpx.post(
                url + CHAT, json={**child, "stream": False, "cache_salt": step.body["cache_salt"]}
            ).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
            for url in servers.engines
        ]
        assert min(cached) > 1900


class ByArrival(KvEngine):
    """Refuses a priority, as vLLM does unless it schedules by it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == CHAT:
            data = await read_body(receive, limit=1 << 24)
            receive = given_again(data, receive)
            if "priority" in json.loads(data):
                self.calls.append(Sent(dict(scope["headers"]), json.loads(data)))
                message = b'{"error": {"message": "Got priority but Priority scheduling is not enabled."}}'
                await send_bytes(send, 400, message, b"application/json")
                return
        await super().__call__(scope, receive, send)


def test_an_engine_that_refuses_priorities_is_sent_none_any_more() -> None:
    engines = [ByArrival(looking="404"), ByArrival(looking="404")]
    with ready(*engines) as (servers, agent):
        results = []
        for number in range(4):
            agent.call(body(f"{number}" * 8000), f"p{number}", FORK)
            wait_for(partial(became, servers, f"p{number}"))
            results += servers.program(f"p{number}")["directives"]["warm"]
        assert results == ["applied"] * 4
        refused = sum("priority" in sent.body for engine in engines for sent in engine.calls)
        assert 1 <= refused <= 2  # once by each engine that was warmed


def test_an_engine_that_is_down_takes_no_warm_up_and_no_call_notices() -> None:
    with in_background(KvEngine()) as gone:
        pass
    with in_background(KvEngine(looking="404")) as url:
        engines = (EngineConfig(url=url), EngineConfig(url=gone))
        router = Router(RouterConfig(engines=engines, health_interval_s=60))
        with in_background(router) as at:
            wait_for(lambda: not router.runtime.engines["engine-1"].up)
            router.runtime.engine_up("engine-1", 0.0)
            agent = Agent(at)
            assert agent.call(body("w" * 8000), forecast=FORK).status_code == 200
            servers = Stack(at, (url, gone), router)
            wait_for(lambda: servers.program("p")["directives"] in ({}, {"warm": {"undelivered": 1}}))


# --- what hints may do


def test_observing_decides_the_same_and_sends_nothing() -> None:
    engines = [KvEngine(), KvEngine()]
    with ready(*engines, mode="observe") as (servers, agent):
        agent.waits_for_a_tool(body("o" * 4000))
        agent.call(body("o" * 4000), forecast=FORK)
        agent.event("fork_declared", fork="f", width=8)
        agent.event("program_finished")
        counts = servers.program("p")["directives"]
        assert {outcome for kind in counts.values() for outcome in kind} == {"withheld"}
        assert set(counts) >= {"retain", "release"}
        assert sum(engine.calls != [] for engine in engines) >= 1
        assert len([sent for engine in engines for sent in engine.calls]) == 2
        assert metric(servers, 'llmd_router_mode{mode="observe"}') == 1
    assert [engine.messages for engine in engines] == [[], []]


def engines_of_a_fork(mode: str, placement: str) -> list[str]:
    """Returns where a step went, and then each of the 8 branches that start from its context."""
    root = "root " * 800
    with ready(KvEngine(), KvEngine(), KvEngine(), mode=mode, placement=placement) as (servers, agent):
        agent.call(body(root))
        for index in range(8):
            value = body(root)
            value["messages"].append({"role": "user", "content": f"branch {index}"})
            fork = ForkPosition(id="f", index=index, width=8)
            agent.call(value, branch=f"b{index}", fork=fork, parents=("s1",))
        return [step["engine"] for step in servers.program("p")["steps"]]


@pytest.mark.parametrize("placement", ["load_and_affinity", "prefix_aware"])
def test_observing_places_every_call_by_the_plain_rule(placement: str) -> None:
    assert len(set(engines_of_a_fork("act", placement)[1:])) == 3
    assert len(set(engines_of_a_fork("observe", placement))) == 1  # where the context is


def test_observing_takes_engines_in_turn_if_that_is_the_rule() -> None:
    assert engines_of_a_fork("observe", "round_robin") == [f"engine-{number % 3}" for number in range(9)]


def test_hints_can_be_switched_off_and_ongiven_again() -> None:
    engine = KvEngine()
    with ready(engine) as (servers, agent):
        assert httpx.get(servers.router + MODE).json() == {"mode": "act"}
        assert agent.mode("off").json() == {"mode": "off"}
        value = body("k" * 400)
        response = agent.call(value)
        assert response.status_code == 200
        (rejection,) = decode_ack(response.headers["x-llmd-ack"]).rejected
        assert (rejection.hint, rejection.reason) == ("hints", "hints are switched off")
        assert b"x-llmd-hints" not in engine.calls[-1].headers
        assert agent.event("program_finished")["rejected"][0]["reason"].endswith("hints are switched off")
        assert httpx.get(f"{servers.router}/v1/agent/programs/p").status_code == 404
        assert "x-llmd-ack" not in agent.plain(value).headers
        assert [metric(servers, f'llmd_router_mode{{mode="{mode}"}}') for mode in ("act", "off")] == [0, 1]
        assert engine.messages == []
        assert agent.mode("act").json() == {"mode": "act"}
        agent.waits_for_a_tool(value)
        wait_for(lambda: engine.directives)


def test_even_hints_that_cannot_be_read_do_no_harm_once_switched_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ready(KvEngine(), mode="off") as (servers, _):
        response = httpx.post(servers.router + CHAT, json=body("x"), headers={"x-llmd-hints": "(((("})
        assert response.status_code == 200
        assert "switched off" in response.headers["x-llmd-ack"]
    assert not caplog.records


def test_switching_off_gives_up_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 60)
    engine = KvEngine("hangs")
    with ready(engine) as (servers, agent):
        for number in range(3):  # one is being sent, and the others wait
            agent.waits_for_a_tool(body(f"{number} " + "g" * 400), f"p{number}")
            wait_for(lambda: engine.messages)
        agent.mode("off")
        for number in (1, 2):  # withheld, if it came before the router had even queued it
            assert became(servers, f"p{number}") in (
                {"retain": {"undelivered": 1}},
                {"retain": {"withheld": 1}},
            )
        assert servers.program("p0")["directives"] == {}
    assert len(engine.messages) == 1


@pytest.mark.parametrize(
    "data", [b"", b"{", b'"off"', b'{"mode": "maybe"}', b'{"mode": "off", "x": 1}', b"[]"]
)
def test_what_is_no_mode(data: bytes) -> None:
    with ready(KvEngine()) as (servers, _):
        response = httpx.put(servers.router + MODE, content=data)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "mode"
        assert httpx.get(servers.router + MODE).json() == {"mode": "act"}
        assert httpx.delete(servers.router + MODE).status_code == 404


def test_only_operators_switch_where_tenants_are_told_apart() -> None:
    tenants = ({"name": "red", "api_keys": ["r1"]},)
    for keys, statuses in (
        ((), {"r1": 403, "op": 401, None: 401}),
        (("op",), {"r1": 403, "op": 200, None: 401}),
    ):
        with ready(KvEngine(), tenants=tenants, operator_api_keys=keys) as (servers, _):
            for key, status in statuses.items():
                agent = Agent(servers.router, key)
                assert agent.mode("observe").status_code == status
            assert Agent(servers.router, "op").plain(body("x")).status_code == 401
            assert servers.brain.runtime.mode == ("observe" if keys else "act")


def test_operator_keys_count_without_tenants_too() -> None:
    with ready(KvEngine(), operator_api_keys=("op",)) as (servers, agent):
        assert agent.mode("off").status_code == 403
        assert Agent(servers.router, "op").mode("off").status_code == 200


# --- the record


def test_the_record_tells_what_happened_and_no_contents(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    engines = [KvEngine(), KvEngine()]
    secret = "Xylophone"
    tenants = ({"name": "red", "api_keys": ["key-of-red"]},)
    with ready(*engines, tenants=tenants, record=path) as (servers, _):
        agent = Agent(servers.router, "key-of-red")
        agent.call(body(f"{secret} " * 400, user=secret), forecast=FORK)
        agent.waits_for_a_tool(body(f"{secret}! " * 400, stop=[secret], stream=True))
        agent.plain(body(f"{secret} plain", tools=[{"type": "function", "function": {"name": secret}}]))
        agent.event("program_finished", note=secret)
        wait_for(lambda: any(engine.directives for engine in engines))
    data = path.read_bytes()
    kinds = {json.loads(line)["is"] for line in data.splitlines()}
    assert kinds >= {"runtime", "arrive", "ranking", "dispatched", "answering", "finished", "observe"}
    assert kinds >= {"engine_kv", "report", "directive", "directive_answered"}
    for hidden in (secret, "key-of-red", *(tenant.salts["red"] for tenant in (servers.brain._tenants,))):
        assert hidden is not None
        assert hidden.encode() not in data
    with path.open("rb") as lines:
        redecided = redecide(lines)
    assert redecided.first_difference is None
    assert redecided.rankings == 3
