"""What works with engines that know nothing of this project, and what happens when that changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from llmd_agents.hints import (
    Forecast,
    ForkPosition,
    Hints,
    Next,
    Program,
    Step,
    chain,
    encode_hints,
    segments_of,
)
from llmd_agents.router import engine_link
from tests.router.plain_engines import CHAT, PlainEngine
from tests.stack.servers import Stack, stack, wait_for

FORK = Forecast(next=Next.FORK, fan_out=200)
EVENTS = "/v1/agent/events"


def body(*texts: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text} for text in texts]
    return {"model": "m", "messages": messages, "max_tokens": 2, **more}


def step(router: str, value: dict[str, Any], program: str = "p", **fields: Any) -> dict[str, Any]:
    """Makes a step of a program; returns the answer's usage."""
    forecast = fields.pop("forecast", None)
    hints = Hints(
        program=Program(id=program),
        step=Step(id=fields.pop("id", "s1"), **fields),
        segments=segments_of(chain(value)),
        forecast=forecast,
    )
    answer = httpx.post(router + CHAT, json=value, headers={"x-llmd-hints": encode_hints(hints)}, timeout=30)
    usage: dict[str, Any] = answer.raise_for_status().json()["usage"]
    return usage


def cached(usage: dict[str, Any]) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def residency(servers: Stack, program: str = "p") -> Any:
    """Returns which engines hold a program's first branch, and whether that is certain."""
    held = servers.program(program)["branches"][0]["residency"]
    return {engine: residence["certain"] for engine, residence in held.items()}


@contextmanager
def plain(count: int) -> Iterator[tuple[Stack, list[PlainEngine]]]:
    engines = [PlainEngine() for _ in range(count)]
    with stack(engines) as servers:
        yield servers, engines


# --- tier A


def test_a_forecast_fork_is_replicated_by_a_warm_up_and_placed_by_it() -> None:
    with plain(2) as (servers, engines):
        shared = "shared " * 1500
        step(servers.router, body(shared), forecast=FORK)
        wait_for(lambda: servers.program("p")["directives"] == {"warm": {"applied": 1}})
        assert sorted(len(engine.warm_ups) for engine in engines) == [0, 1]
        # It has answered a call with this context, so that it holds it.
        assert residency(servers) == {"engine-0": True, "engine-1": True}
        hits = []
        for index in range(8):
            fork = ForkPosition(id="f", index=index, width=8)
            branch: dict[str, Any] = {
                "branch": f"b{index}",
                "fork": fork,
                "parents": ("s1",),
                "id": f"c{index}",
            }
            hits.append(cached(step(servers.router, body(shared, f"branch {index}"), **branch)))
        assert min(hits) > 2500
        steps = servers.program("p")["steps"][1:]
        assert {one["engine"] for one in steps} == {"engine-0", "engine-1"}


def test_nothing_is_sent_to_it_that_only_others_take() -> None:
    with plain(1) as (servers, engines):
        step(servers.router, body("x" * 4000))
        events = [
            {"type": "tool_started", "program": "p", "at": 1, "call": "t", "tool": "search", "expected": 5},
            {"type": "fork_declared", "program": "p", "at": 1, "fork": "f", "width": 8},
            {"type": "program_finished", "program": "p", "at": 1},
        ]
        batch = {"version": 1, "events": events}
        assert httpx.post(servers.router + EVENTS, json=batch).json()["accepted"] == 3
        step(servers.router, body("y"), "q")
        assert servers.program("p")["directives"] == {}
        assert [seen.warm_up for engine in engines for seen in engine.seen] == [False, False]


def test_what_turns_out_to_be_gone_is_believed_no_longer() -> None:
    with plain(1) as (servers, _):
        kept, other = "k" * 8000, "o" * 8000
        step(servers.router, body(kept), "kept")
        step(servers.router, body(other), "other")
        assert cached(step(servers.router, body(kept, "again"), "kept", id="s2")) > 1900
        assert residency(servers, "other") == {"engine-0": True}
        httpx.post(servers.engines[0] + "/reset_prefix_cache").raise_for_status()
        assert residency(servers, "other") == {"engine-0": True}  # nobody has told otherwise
        assert cached(step(servers.router, body(kept, "again", "more"), "kept", id="s3")) == 0
        # That was used later than the other one, which has gone with it.
        assert residency(servers, "other") == {}
        assert residency(servers, "kept") == {"engine-0": True}  # it has just been computed


# --- an engine that changes


def views(servers: Stack) -> list[tuple[bool, bool, bool]]:
    """Returns of each engine whether it is up, takes directives and tells what it holds."""
    return [
        (state.up, state.kv is not None, state.epoch is not None)
        for state in servers.brain.runtime.engines.values()
    ]


class Restarting:
    """An engine behind one address that may go away and come back with its interface or without."""

    def __init__(self, *, plugged: bool) -> None:
        self.away = False
        self.restart(plugged=plugged)

    def restart(self, *, plugged: bool) -> None:
        self.engine = PlainEngine()
        self.engine.plugged = plugged

    def close(self) -> None:
        self.engine.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.engine(scope, receive, send)
            return
        if self.away:
            raise ConnectionError
        if not self.engine.server._loop.alive:
            await self.engine.server._start()
        await self.engine(scope, receive, send)


@pytest.mark.parametrize("plugged", [True, False])
def test_an_engine_that_comes_back_as_another_is_asked_at_once(plugged: bool) -> None:
    """Without waiting for the next turn, which is a minute away where there was no interface."""
    app = Restarting(plugged=not plugged)
    with stack([app]) as servers:
        wait_for(lambda: views(servers) == [(True, not plugged, not plugged)])
        step(servers.router, body("x" * 8000), "before")
        wait_for(lambda: residency(servers, "before") == {"engine-0": True})
        app.away = True
        app.close()
        wait_for(lambda: views(servers) == [(False, False, False)])
        assert residency(servers, "before") == {}
        app.restart(plugged=plugged)
        app.away = False
        wait_for(lambda: views(servers) == [(True, plugged, plugged)])
        step(servers.router, body("y" * 8000), "after")
        wait_for(lambda: residency(servers, "after") == {"engine-0": True})
        if plugged:  # it tells what it has lost
            httpx.post(servers.engines[0] + "/reset_prefix_cache").raise_for_status()
            wait_for(lambda: residency(servers, "after") == {})
        else:
            assert app.engine.calls
            assert residency(servers, "before") == {}
        app.close()


def test_an_engine_that_loses_its_interface_unnoticed_is_known_by_its_answers_from_then_on() -> None:
    """So fast that no health check found it down, as behind an address that several engines share."""
    with plain(1) as (servers, (engine,)):
        engine.plugged = True
        state = servers.brain.runtime.engines["engine-0"]
        state.up = False  # so that it is asked again
        wait_for(lambda: views(servers) == [(True, True, True)])
        step(servers.router, body("x" * 8000), "before")
        wait_for(lambda: residency(servers, "before") == {"engine-0": True})
        engine.plugged = False
        engine.server._feed.close()
        wait_for(lambda: not views(servers)[0][2])
        assert residency(servers, "before") == {}
        # The first directive finds out that there is nowhere to send it to.
        event = {
            "type": "tool_started",
            "program": "before",
            "at": 1,
            "call": "t",
            "tool": "s",
            "expected": 5,
        }
        httpx.post(servers.router + EVENTS, json={"version": 1, "events": [event]}).raise_for_status()
        wait_for(lambda: views(servers) == [(True, False, False)])
        assert cached(step(servers.router, body("x" * 8000, "more"), "before", id="s2")) > 1900
        assert residency(servers, "before") == {"engine-0": True}


def test_an_engine_that_gets_its_interface_unnoticed_is_found_in_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_link, "UNSUPPORTED_RETRY_SECONDS", 0.05)
    with plain(1) as (servers, (engine,)):
        wait_for(lambda: views(servers) == [(True, False, False)])
        step(servers.router, body("x" * 8000))
        engine.plugged = True
        wait_for(lambda: views(servers) == [(True, True, True)])
        assert residency(servers) == {"engine-0": True}
