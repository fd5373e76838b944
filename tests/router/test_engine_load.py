"""The router reads its engines' metrics, and minds what it did not send them itself."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_agents.router import engine_link
from llmd_agents.runtime import redecide
from tests.router.plain_engines import CHAT, PlainEngine
from tests.stack.servers import Stack, stack, wait_for


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}


def loads(servers: Stack) -> list[Any]:
    return [view["load"] for view in servers.engine_views()]


def others(servers: Stack) -> list[int | None]:
    return [load["others"] if load is not None else None for load in loads(servers)]


@contextmanager
def two_engines(**config: Any) -> Iterator[tuple[Stack, list[PlainEngine]]]:
    # Slow, so that what is under way stays there.
    engines = [PlainEngine(time_scale=0.1), PlainEngine()]
    with stack(engines, **{"load_interval_s": 0.05, **config}) as servers:
        yield servers, engines


async def with_work_of_others(url: str, count: int, then: Callable[[], Any]) -> None:
    """Sends an engine long calls past the router, and drops them when `then` is done."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        calls = [
            asyncio.create_task(http.post(CHAT, json=body(f"other {n}", max_tokens=4000, ignore_eos=True)))
            for n in range(count)
        ]
        try:
            await asyncio.to_thread(then)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


def test_work_that_came_another_way_is_counted() -> None:
    with two_engines(load_interval_s=1.0) as (servers, engines):

        def then() -> None:
            wait_for(lambda: others(servers) == [6, 0])
            for number in range(10):
                httpx.post(servers.router + CHAT, json=body(f"{number}")).raise_for_status()
            text = httpx.get(servers.router + "/metrics").text
            assert 'llmd_router_engine_others{engine="engine-0"} 6.0' in text
            assert 'llmd_router_engine_others{engine="engine-1"} 0.0' in text
            assert 'llmd_router_engine_cache_usage{engine="engine-0"} 0.0' in text

        asyncio.run(with_work_of_others(servers.engines[0], 6, then))
        assert (len(engines[0].calls), len(engines[1].calls)) == (6, 10)
        wait_for(lambda: others(servers) == [0, 0])


def test_its_own_calls_are_not_taken_for_others() -> None:
    with two_engines() as (servers, _):
        seen: set[int | None] = set()

        async def main() -> None:
            async with httpx.AsyncClient(base_url=servers.router, timeout=60) as http:
                calls = [
                    asyncio.create_task(http.post(CHAT, json=body(f"{n}", max_tokens=20, ignore_eos=True)))
                    for n in range(40)
                ]
                while not all(call.done() for call in calls):
                    seen.update(await asyncio.to_thread(others, servers))
                    await asyncio.sleep(0.01)
                for call in calls:
                    call.result().raise_for_status()

        asyncio.run(main())
        assert seen <= {None, 0}


@pytest.mark.parametrize(
    "metrics", [404, 301, b"", b"<html>", b"vllm:num_requests_running many\n", b"x" * (5 << 20)]
)
def test_an_engine_that_tells_nothing_is_asked_seldom_and_harms_nobody(metrics: int | bytes) -> None:
    engines = [PlainEngine(), PlainEngine()]
    for engine in engines:
        engine.metrics = metrics
    with stack(engines, load_interval_s=0.02) as servers:
        wait_for(lambda: all(engine.scrapes for engine in engines))
        for number in range(10):
            httpx.post(servers.router + CHAT, json=body(f"{number}")).raise_for_status()
        assert loads(servers) == [None, None]
        text = httpx.get(servers.router + "/metrics").text
        assert "llmd_router_engine_others{" not in text
    assert [engine.scrapes for engine in engines] == [1, 1]
    assert all(engine.calls for engine in engines)


def test_metrics_that_fail_for_a_while_are_read_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = PlainEngine()
    engine.metrics = 500
    with stack([engine], load_interval_s=0.02) as servers:
        wait_for(lambda: engine.scrapes > 3)
        assert loads(servers) == [None]
        engine.metrics = None
        wait_for(lambda: others(servers) == [0])
    assert not [record for record in caplog.records if record.name == "llmd_agents.router"]


def test_a_reading_that_is_not_renewed_fades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "UNSUPPORTED_RETRY_SECONDS", 1000.0)
    engines = [PlainEngine(), PlainEngine()]
    busy = b"vllm:num_requests_running 9\nvllm:num_requests_waiting 9\n"
    engines[0].metrics = busy
    with stack(engines, load_interval_s=0.1) as servers:
        wait_for(lambda: others(servers) == [18, 0])
        engines[0].metrics = 404
        line = 'llmd_router_engine_others{engine="engine-0"} 0.0'
        wait_for(lambda: line in httpx.get(servers.router + "/metrics").text)
        for number in range(12):
            httpx.post(servers.router + CHAT, json=body(f"{number}")).raise_for_status()
        assert engines[0].calls


def test_readings_are_in_the_record(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with two_engines(record=path) as (servers, _):

        def then() -> None:
            wait_for(lambda: others(servers) == [4, 0])
            for number in range(10):
                httpx.post(servers.router + CHAT, json=body(f"{number}")).raise_for_status()

        asyncio.run(with_work_of_others(servers.engines[0], 4, then))
    lines = path.read_bytes().splitlines()
    assert sum(line.startswith(b'{"is":"engine_load"') for line in lines) > 2
    assert redecide(lines).first_difference is None
