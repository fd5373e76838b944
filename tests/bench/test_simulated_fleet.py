"""A fleet in virtual time, through the openai package: placement, hints, events, directives, errors."""

import asyncio
import dataclasses
from typing import Any

import openai
import pytest

from llmd_agents.bench.calls import CallRecord
from llmd_agents.bench.fleet_client import events_reach, fleet_client
from llmd_agents.bench.simulated_fleet import NETWORK_S, SimulatedFleet
from llmd_agents.bench.virtual_time import run
from llmd_agents.client import Forecast, program, tool_call
from llmd_agents.engine import ByNextUse, CachedFirst, EngineCore, load_profile
from llmd_agents.runtime import DEFAULT_TENANT, Runtime, program_view

PROFILE = dataclasses.replace(load_profile("l40s-8b"), block_size=64, num_blocks=1501, host_blocks=1500)


LONG = {"ignore_eos": True}


def fleet(engines: int = 2) -> SimulatedFleet:
    names = [f"engine-{index}" for index in range(engines)]
    cores = {
        name: EngineCore(
            PROFILE, eviction=ByNextUse(), dispatch=CachedFirst(aging_s=10), protect_waiting=True
        )
        for name in names
    }
    return SimulatedFleet(Runtime(names), cores)


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_call_takes_the_engines_time_and_the_networks() -> None:
    async def main() -> tuple[float, CallRecord]:
        running = fleet()
        running.start()
        calls: list[CallRecord] = []
        async with fleet_client(running, hints=False, on_call=calls.append) as client:
            reply = await client.chat.completions.create(model="m", messages=user("x" * 4000), max_tokens=10)
        running.stop()
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 10
        return asyncio.get_running_loop().time(), calls[0]

    took, call = run(main())
    expected = PROFILE.prefill_s(0, 1003) + PROFILE.step_overhead_s * 10
    expected += sum(PROFILE.decode_s(1003 + index) for index in range(1, 10))
    assert call.stats.e2e_s == pytest.approx(expected)
    assert took == pytest.approx(expected + 4 * NETWORK_S)
    assert call.branch is None


@pytest.mark.parametrize("streamed", [False, True])
def test_steps_events_and_forks_reach_the_runtime(streamed: bool) -> None:
    async def main() -> dict[str, Any]:
        running = fleet()
        running.start()
        with events_reach(running):
            async with fleet_client(running, hints=True) as client:

                async def ask(*texts: str) -> str:
                    messages: Any = [{"role": "user", "content": text} for text in texts]
                    if not streamed:
                        reply = await client.chat.completions.create(model="m", messages=messages)
                        return reply.choices[0].message.content or ""
                    stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
                    parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                    assert len(parts) > 1
                    return "".join(parts)

                async with program("story", id="p") as told:
                    with told.label(kind="plan", forecast=Forecast(next="fork", fan_out=3)):
                        plan = await ask("x" * 40_000)
                    with tool_call("look", expected=3.0):
                        await asyncio.sleep(2.5)
                    async with told.fork(3, name="write") as fork:
                        drafts = await fork.map(lambda who: ask("x" * 40_000, plan, who), ["a", "b", "c"])
                    await ask("x" * 40_000, plan, *drafts)
        record = running.runtime.program(DEFAULT_TENANT, "p")
        assert record is not None
        view = program_view(running.runtime, DEFAULT_TENANT, record)
        view["directives"] = record.directives
        running.stop()
        return view

    view = run(main())
    assert view == run(main())  # to the last digit
    assert view["status"] == "ok"
    assert [step["id"] for step in view["steps"]] == ["s1", "s2", "s3", "s4", "s5"]
    assert sorted(map(tuple, view["edges"])) == [
        *(("s1", step) for step in ("s2", "s3", "s4")),
        *((step, "s5") for step in ("s2", "s3", "s4")),
    ]
    (fork,) = view["forks"]
    assert (fork["width"], fork["joined"], len(fork["branches"])) == (3, True, 3)
    (tool,) = view["tools"]
    assert tool["finished_at"] - tool["started_at"] == pytest.approx(2.5)
    assert all(step["status"] == "finished" for step in view["steps"])
    assert sum(view["directives"]["retain"].values()) >= 1


def test_calls_without_hints_are_no_programs() -> None:
    async def main() -> int:
        running = fleet()
        running.start()
        with events_reach(running):
            async with fleet_client(running, hints=False) as client, program("quiet"):
                await client.chat.completions.create(model="m", messages=user("hello"))
        running.stop()
        return running.runtime.program_count

    assert run(main()) == 0


def test_what_an_engine_refuses_is_an_error_and_leaves_no_load() -> None:
    async def main() -> None:
        running = fleet()
        running.start()
        async with fleet_client(running, hints=True) as client:
            with pytest.raises(openai.BadRequestError, match="KV cache"):
                await client.chat.completions.create(model="m", messages=user("x" * 800_000))
            with pytest.raises(openai.BadRequestError, match="n must be 1"):
                await client.chat.completions.create(model="m", messages=user("x"), n=2)
        assert [state.running for state in running.runtime.engines.values()] == [0, 0]
        running.stop()

    run(main())


def test_a_call_that_is_given_up_is_dropped_everywhere() -> None:
    async def main() -> None:
        running = fleet()
        running.start()
        async with fleet_client(running, hints=True) as client:
            for at in (0.0005, 0.0015, 0.05, 3.0):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(at):
                        await client.chat.completions.create(
                            model="m", messages=user("x" * 8000), max_tokens=1000, extra_body=LONG
                        )
                await asyncio.sleep(1)
                assert all(state.running == 0 for state in running.runtime.engines.values())
                assert not any(engine.core.has_work for engine in running.engines.values())
        running.stop()

    run(main())


def test_copies_are_made_over_the_network() -> None:
    async def main() -> None:
        running = fleet(3)
        running.start()
        with events_reach(running):
            async with fleet_client(running, hints=True) as client, program("wide", id="p") as wide:
                with wide.label(forecast=Forecast(next="fork", fan_out=30)):
                    await client.chat.completions.create(
                        model="m", messages=user("x" * 80_000), max_tokens=20
                    )
                await asyncio.sleep(5)
        copies = [
            (issued.engine, answer.outcome)
            for issued, answer in running.answers
            if issued.directive.type == "prefetch" and answer is not None
        ]
        running.stop()
        assert len(copies) == 2
        assert all(outcome == "applied" for _, outcome in copies)

    run(main())
