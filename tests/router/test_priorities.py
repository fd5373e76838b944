"""A program's priority reaches engines that order their queues by one, and no call is refused for it."""

from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from llmd_agents.hints import Forecast, Hints, Next, Program, Step, chain, encode_hints, segments_of
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.router.priorities import Priorities, engine_priority, with_priority
from llmd_agents.router.upstream import Outgoing
from llmd_agents.router.warm_ups import LOWEST_PRIORITY
from llmd_agents.serving import in_background
from tests.router.plain_engines import CHAT, PlainEngine
from tests.stack.servers import wait_for

FORK = Forecast(next=Next.FORK, fan_out=200)


def call(
    router: str,
    priority: int = 90,
    *,
    text: str = "x",
    forecast: Forecast | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}
    hints = Hints(
        program=Program(id=f"p{priority}", priority=priority),
        step=Step(id="s1"),
        segments=segments_of(chain(body)),
        forecast=forecast,
    )
    sent = {"x-llmd-hints": encode_hints(hints), **(headers or {})}
    return httpx.post(router + CHAT, json=body, headers=sent, timeout=30)


def routing(*engines: tuple[str, Any], **config: Any) -> Router:
    """A router in front of engines, each with its `priority`."""
    configs = tuple(EngineConfig(url=url, priority=priority) for url, priority in engines)
    return Router(RouterConfig(engines=configs, health_interval_s=0.05, **config))


# --- what is known


def known(priorities: Priorities) -> tuple[bool, bool]:
    return priorities.may_try("e"), priorities.taken("e")


@pytest.mark.parametrize(
    ("configured", "at_first", "accepted", "refused"),
    [
        ("auto", (True, False), (True, True), (False, False)),
        (True, (True, True), (True, True), (False, False)),
        (False, (False, False), (False, False), (False, False)),
    ],
)
def test_what_was_learned_holds_until_it_is_forgotten(
    configured: Any, at_first: tuple[bool, bool], accepted: tuple[bool, bool], refused: tuple[bool, bool]
) -> None:
    priorities = Priorities({"e": EngineConfig(url="http://e", priority=configured)})
    assert known(priorities) == at_first
    priorities.accepted("e")
    assert known(priorities) == accepted
    priorities.refused("e")
    assert known(priorities) == refused
    priorities.forget("e")
    assert known(priorities) == at_first


def test_what_matters_more_runs_earlier_and_none_is_as_if_none_were_declared() -> None:
    assert [engine_priority(priority) for priority in (0, 50, 70, 100)] == [50, 0, -20, -50]
    assert engine_priority(0) < LOWEST_PRIORITY


def test_it_overrides_the_clients_own() -> None:
    headers = (("X-Vllm-Priority", "-99"), ("accept", "*/*"))
    request = with_priority(Outgoing("POST", CHAT, headers, b'{"priority":-99}'), 7)
    assert request == Outgoing("POST", CHAT, (("accept", "*/*"),), b'{"priority":-99,"priority":7}')


@pytest.mark.parametrize("body", [None, b"", b"[1]", b"\xff{}", b'{"a": 1}'.decode().encode("utf-16")])
def test_what_cannot_be_added_to_is_left_alone(body: bytes | None) -> None:
    assert with_priority(Outgoing("POST", CHAT, (), body), 7) is None
    encoded = Outgoing("POST", CHAT, (("Content-Encoding", "gzip"),), b"{}")
    assert with_priority(encoded, 7) is None


# --- over HTTP


def test_an_engine_that_is_known_to_take_it_gets_it() -> None:
    engine = PlainEngine()
    with in_background(engine) as url, in_background(routing((url, True))) as router:
        own = {"X-Vllm-Priority": "-99"}
        for priority in (90, 10, 50):
            assert call(router, priority, headers=own, user="u").status_code == 200
        assert call(router, stream=True, priority_of_mine=1).status_code == 200
        plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], "priority": 3}
        httpx.post(router + CHAT, json=plain).raise_for_status()
    assert [seen.body.get("priority") for seen in engine.calls] == [-40, 40, None, -40, 3]
    assert [b"x-vllm-priority" in seen.headers for seen in engine.calls] == [False, False, True, False, False]


def test_calls_carry_none_until_a_warm_up_with_one_was_answered() -> None:
    engines = [PlainEngine(), PlainEngine()]
    with (
        in_background(engines[0]) as one,
        in_background(engines[1]) as other,
        in_background(routing((one, "auto"), (other, "auto"))) as router,
    ):
        assert call(router, text="w" * 8000, forecast=FORK).status_code == 200
        wait_for(lambda: any(engine.warm_ups for engine in engines))
        warmed = next(engine for engine in engines if engine.warm_ups)
        for number in range(30):
            assert call(router, number % 50, text=f"{number}").status_code == 200
        assert all(engine.calls for engine in engines)
        for engine in engines:
            carried = {"priority" in seen.body for seen in engine.calls}
            assert carried == {engine is warmed}


@pytest.mark.parametrize("configured", ["auto", True, False])
@pytest.mark.parametrize("stream", [False, True])
def test_no_client_ever_sees_a_refusal(configured: Any, stream: bool) -> None:
    engines = [PlainEngine(priorities=False), PlainEngine(priorities=False)]
    with (
        in_background(engines[0]) as one,
        in_background(engines[1]) as other,
        in_background(routing((one, configured), (other, configured))) as router,
    ):
        for number in range(4):
            forecast = FORK if number % 2 else None
            response = call(router, 90 + number, text=f"{number}" * 8000, forecast=forecast, stream=stream)
            assert response.status_code == 200
            assert "length" in response.text
        wait_for(lambda: sum(len(engine.warm_ups) for engine in engines) >= 2)
        answered = httpx.get(router + "/metrics").text
        assert 'llmd_router_responses_total{status="200"} 4.0' in answered
        for engine in engines:  # tried once at most by call or warm-up
            assert sum(bool(seen.body.get("priority")) for seen in engine.seen) <= (configured is not False)


def test_an_engine_that_restarts_without_is_found_out_by_no_client() -> None:
    engine = PlainEngine()
    with in_background(engine) as url, in_background(routing((url, True))) as router:
        assert call(router).status_code == 200
        engine.priorities = False
        assert [call(router, 91 + number).status_code for number in range(3)] == [200] * 3
    assert [seen.body.get("priority") for seen in engine.calls] == [-40, -41, None, None, None]


def test_what_was_learned_goes_with_the_engine() -> None:
    engines = [PlainEngine(), PlainEngine(priorities=False)]
    with in_background(engines[0]) as url:
        port = int(url.rsplit(":", 1)[1])
        router = routing((url, "auto"))
        running = ExitStack()
        at = running.enter_context(in_background(router))
        router._priorities.accepted("engine-0")
        assert call(at).status_code == 200
    with running:
        wait_for(lambda: not router.runtime.engines["engine-0"].up)
        with in_background(engines[1], port=port):
            wait_for(lambda: router.runtime.engines["engine-0"].up)
            assert call(at).status_code == 200
    assert [[seen.body.get("priority") for seen in engine.seen] for engine in engines] == [[-40], [None]]


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_hints_that_must_not_act_set_no_priority(mode: str) -> None:
    engine = PlainEngine()
    with in_background(engine) as url, in_background(routing((url, True), mode=mode)) as router:
        assert call(router).status_code == 200
    assert [seen.body.get("priority") for seen in engine.calls] == [None]


@pytest.mark.parametrize("value", ["yes", 1, 0.5, None, "AUTO"])
def test_what_cannot_be_configured(value: Any) -> None:
    with pytest.raises(ValueError, match="priority"):
        EngineConfig(url="http://e", priority=value)
