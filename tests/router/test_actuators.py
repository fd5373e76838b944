"""What the router does on the runtime's behalf while no call asks for it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from llmd_agents.hints import Hints, Program, Step, chain, encode_hints, segments_of
from llmd_agents.router import EngineConfig, actuators, quiet
from llmd_agents.router.actuators import Actuators
from llmd_agents.router.metrics import RouterMetrics
from llmd_agents.router.priorities import Priorities
from llmd_agents.runtime import Issued, Runtime
from tests.stack.servers import stack

ENGINES = {"engine-0": EngineConfig(url="http://127.0.0.1:9")}


class Waking(Runtime):
    """Wants to be woken at given times, and may fail when it is."""

    def __init__(self, *due: float, faults: int = 0) -> None:
        super().__init__(ENGINES)
        self.due = list(due)
        self.faults = faults
        self.ticks: list[float] = []
        self.ticked = asyncio.Semaphore(0)

    def wake_at(self) -> float | None:
        return self.due[0] if self.due else None

    def tick(self, at: float) -> None:
        self.ticks.append(at)
        self.ticked.release()
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a fault")
        while self.due and self.due[0] <= at:
            self.due.pop(0)

    def take_directives(self) -> list[Issued]:
        return []


def acting(runtime: Runtime, story: Callable[[Actuators], Awaitable[None]]) -> None:
    async def main() -> None:
        acting = Actuators(
            runtime,
            ENGINES,
            RouterMetrics(runtime, None),
            Priorities(ENGINES),
            answer_timeout_s=1,
            connect_timeout_s=1,
        )
        try:
            await story(acting)
        finally:
            await acting.close()

    asyncio.run(main())


def test_the_runtime_is_woken_when_it_asks_to_be() -> None:
    now = time.time()
    runtime = Waking(now - 5, now + 0.05, now + 0.1)

    async def story(acting: Actuators) -> None:
        acting.changed()
        acting.changed()
        while runtime.due:
            await runtime.ticked.acquire()
        assert runtime.ticks[0] >= now
        assert runtime.ticks[-1] >= now + 0.1

    acting(runtime, story)


def test_nobody_is_woken_for_nothing() -> None:
    runtime = Waking(time.time() + 1000)

    async def story(acting: Actuators) -> None:
        acting.changed()
        await asyncio.sleep(0.05)

    acting(runtime, story)
    assert runtime.ticks == []


def test_a_fault_is_told_once_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quiet, "_last", {})
    monkeypatch.setattr(actuators, "FAULT_PAUSE_SECONDS", 0.01)
    runtime = Waking(time.time(), faults=3)

    async def story(acting: Actuators) -> None:
        acting.changed()
        while runtime.due:
            await runtime.ticked.acquire()

    acting(runtime, story)
    assert len(runtime.ticks) == 4
    assert [record.levelno for record in caplog.records if "advice" in record.message] == [logging.WARNING]


@pytest.mark.parametrize(
    "method",
    ["dispatched", "answering", "finished", "take_directives", "wake_at", "engine_kv", "observe", "report"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_fault_of_the_runtime_fails_a_call(
    method: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Runtime, method, fault)
    value = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "stream": stream}
    hints = Hints(program=Program(id="p"), step=Step(id="s1"), segments=segments_of(chain(value)))
    event = {"type": "program_finished", "program": "p", "at": 1}
    with stack(1) as servers, httpx.Client(base_url=servers.router, timeout=30) as http:
        for _ in range(3):
            response = http.post(
                "/v1/chat/completions", json=value, headers={"x-llmd-hints": encode_hints(hints)}
            )
            assert response.status_code == 200
            assert "length" in response.text
        events = http.post("/v1/agent/events", json={"version": 1, "events": [event]}).json()
        assert events["accepted"] == (method != "observe")
