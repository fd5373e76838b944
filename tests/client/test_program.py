"""What programs, forks, loops and tools put on the wire, with the real openai package."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import Forecast, instrument, program, tool
from llmd_agents.client.clock import use_clock
from llmd_agents.client.sender import Credential, use_sender
from llmd_agents.hints import BranchEnded, Event
from llmd_agents.hints.events import ToolFinished, ToolStarted
from tests.recording import RecordingServer, recording_server


@pytest.fixture
def server() -> Iterator[tuple[RecordingServer, str]]:
    with recording_server() as running:
        yield running


def messages(*texts: str) -> Any:
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


def test_a_conversation_is_a_chain_of_steps(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("essays", priority=70) as run:
        instrument(client)
        for turn in (["a"], ["a", "fine", "b"], ["a", "fine", "b", "fine", "c"]):
            client.chat.completions.create(model="m", messages=messages(*turn))
    first, second, third = recorded.steps
    assert first.program == run.declared
    assert [step.step.parents for step in (first, second, third)] == [(), ("s1",), ("s2",)]
    assert {step.step.branch for step in (first, second, third)} == {"main"}
    # The first step lists its whole context, the others what they add to the one before.
    assert first.extends is None
    assert second.extends == first.digest
    assert third.extends == second.digest
    assert [len(step.segments) for step in (first, second, third)] == [1, 2, 2]
    assert [event.type for event in recorded.events] == ["program_started", "program_finished"]
    assert recorded.event_posts[0].headers["authorization"] == "Bearer k"


def test_a_rewritten_context_extends_what_is_left_of_it(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("essays"):
        instrument(client)
        client.chat.completions.create(model="m", messages=messages("a", "b", "c"))
        client.chat.completions.create(model="m", messages=messages("a", "b", "other"))
        client.chat.completions.create(model="m", messages=messages("new"))
    first, second, third = recorded.steps
    assert second.extends == first.segments[1].digest
    assert third.extends is None
    assert len(third.segments) == 1
    assert third.step.model == "m"


def test_fork_and_join(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server

    async def main() -> None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)

            async def call(*texts: str) -> None:
                await client.chat.completions.create(model="m", messages=messages(*texts))

            async def child(name: str) -> str:
                await call("a", "fine", name)
                await call("a", "fine", name, "fine", "more")
                return name

            async with program("p") as run:
                await call("a")
                async with run.fork(3, name="draft") as fork:
                    assert await fork.map(child, ["x", "y", "z"]) == ["x", "y", "z"]
                await call("a", "fine", "choose")

    asyncio.run(main())
    steps = recorded.steps
    children = [step.step for step in steps if step.step.fork is not None]
    assert len(children) == 6
    by_branch: dict[str, list[Any]] = {}
    for step in children:
        by_branch.setdefault(step.branch, []).append(step)
    assert sorted(by_branch) == ["f1.0", "f1.1", "f1.2"]
    for branch, (one, two) in by_branch.items():
        assert one.parents == ("s1",)
        assert two.parents == (one.id,)
        assert (one.fork.id, one.fork.width, f"f1.{one.fork.index}") == ("f1", 3, branch)
    assert steps[-1].step.parents == ("f1",)
    assert steps[-1].step.fork is None
    events = recorded.events
    assert [event.type for event in events if not isinstance(event, BranchEnded)] == [
        "program_started",
        "fork_declared",
        "joined",
        "program_finished",
    ]
    assert sum(isinstance(event, BranchEnded) for event in events) == 3


def test_fork_in_threads(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("p") as run:
        instrument(client)

        def child(name: str) -> str:
            client.chat.completions.create(model="m", messages=messages(name))
            return name

        with run.fork(4) as fork:
            assert fork.map(child, "wxyz") == ["w", "x", "y", "z"]
    forks = [step.step.fork for step in recorded.steps]
    assert sorted(fork.index for fork in forks if fork) == [0, 1, 2, 3]
    assert len({step.step.id for step in recorded.steps}) == 4


def test_nested_forks(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("p") as run:
        instrument(client)

        def leaf(name: str) -> None:
            client.chat.completions.create(model="m", messages=messages(name))

        def child(name: str) -> None:
            with run.fork(2) as inner:
                inner.map(leaf, [name + "1", name + "2"])
            leaf(name)

        with run.fork(2) as outer:
            outer.map(child, ["a", "b"])
        leaf("end")
    steps = {request.json["messages"][0]["content"]: request.hints.step for request in recorded.calls}
    inner_of_a = steps["a1"].fork
    assert inner_of_a is not None
    assert steps["a"].parents == (inner_of_a.id,)
    assert steps["a"].fork is not None
    assert steps["a"].fork.id == "f1"
    assert steps["end"].parents == ("f1",)


def test_overlapping_calls_are_siblings_and_what_follows_depends_on_all(
    server: tuple[RecordingServer, str],
) -> None:
    recorded, url = server

    async def main() -> None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)

            async def call(text: str) -> None:
                await client.chat.completions.create(model="m", messages=messages(text))

            async with program("p"):
                await call("a")
                await asyncio.gather(call("b"), call("c"))
                await call("d")

    asyncio.run(main())
    parents = {
        request.json["messages"][0]["content"]: set(request.hints.step.parents) for request in recorded.calls
    }
    assert parents == {"a": set(), "b": {"s1"}, "c": {"s1"}, "d": {"s2", "s3"}}


def test_loop_positions(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("p") as run:
        instrument(client)
        for iteration in run.loop("react", limit=5):
            client.chat.completions.create(model="m", messages=messages(str(iteration)))
            if iteration == 2:
                break
        client.chat.completions.create(model="m", messages=messages("after"))
    loops = [step.step.loop for step in recorded.steps]
    assert [(loop.iteration, loop.limit) for loop in loops if loop] == [(0, 5), (1, 5), (2, 5)]
    assert loops[3] is None


def test_labels(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("p") as run:
        instrument(client)
        with run.label(kind="plan", agent="Plänerin"):
            client.chat.completions.create(model="m", messages=messages("a"))
        client.chat.completions.create(model="m", messages=messages("b"))
    assert [(step.step.kind, step.step.agent) for step in recorded.steps] == [
        ("plan", "Plänerin"),
        (None, None),
    ]


def test_tools(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server

    @tool(expected="5s", result_lifetime="step")
    async def search(query: str) -> str:
        return query.upper()

    @tool
    def broken() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        assert await search("outside of any program") == "OUTSIDE OF ANY PROGRAM"
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)
            async with program("p"):
                await client.chat.completions.create(model="m", messages=messages("a"))
                assert await search("inside") == "INSIDE"
                with pytest.raises(ZeroDivisionError):
                    broken()

    asyncio.run(main())
    calls = [event for event in recorded.events if isinstance(event, ToolStarted | ToolFinished)]
    assert [(type(event), event.tool, event.call) for event in calls] == [
        (ToolStarted, "search", "t1"),
        (ToolFinished, "search", "t1"),
        (ToolStarted, "broken", "t2"),
        (ToolFinished, "broken", "t2"),
    ]
    started, finished = calls[0], calls[3]
    assert isinstance(started, ToolStarted)
    assert (started.expected, started.result_lifetime) == (5.0, "step")
    assert isinstance(finished, ToolFinished)
    assert finished.outcome == "error"


def test_failures_in_branches(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server

    async def fail(text: str) -> str:
        if text == "ok":
            await asyncio.sleep(10)
        raise ValueError(text)

    def fail_in_thread(text: str) -> str:
        time.sleep(0.01)
        raise ValueError(text)

    async def main() -> None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)
            async with program("p") as run:
                await client.chat.completions.create(model="m", messages=messages("a"))
                with pytest.raises(ValueError, match="bad"):
                    async with run.fork(2) as fork:
                        await fork.map(fail, ["ok", "bad"])
                with pytest.raises(ExceptionGroup, match="2 branches of fork f2 failed"), run.fork(2) as sync:
                    sync.map(fail_in_thread, ["x", "y"])
                with pytest.raises(ValueError, match="3 items for a fork"), run.fork(2) as sync:
                    sync.map(str, [1, 2, 3])

    asyncio.run(main())
    outcomes = [event.outcome for event in recorded.events if isinstance(event, BranchEnded)]
    assert sorted(outcomes) == ["cancelled", "error", "error", "error"]


def test_more_branches_than_declared() -> None:
    with program("p") as run, run.fork(1) as fork:
        with fork.branch():
            pass
        with pytest.raises(RuntimeError, match="declared with 1 branches"), fork.branch():
            pass


@pytest.mark.parametrize("width", [0, -1, 100_001])
def test_a_fork_of_impossible_width_is_refused_before_it_begins(width: int) -> None:
    with program("p") as run, pytest.raises(ValueError, match="width"):
        run.fork(width)


def test_programs_are_refused_by_field() -> None:
    with pytest.raises(ValueError, match="priority"):
        program("p", priority=101)
    with pytest.raises(ValueError, match="name"):
        program("")


@pytest.mark.parametrize("duration", ["5", "five s", "-1s", -1, float("inf"), "1 day"])
def test_durations_without_meaning_are_refused(duration: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        tool(expected=duration)


def test_an_async_generator_closed_elsewhere_leaves_no_frame() -> None:
    async def main() -> None:
        async def stream() -> Any:
            async with program("p"):
                yield 1
                yield 2

        generator = stream()
        assert await anext(generator) == 1
        await asyncio.create_task(generator.aclose())

    asyncio.run(main())


def test_forecasts(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    with OpenAI(base_url=url, api_key="k") as client, program("p") as run:
        instrument(client)
        with run.label(kind="plan", forecast=Forecast(next="fork", fan_out=8)):
            client.chat.completions.create(model="m", messages=messages("a"))
            with run.label(agent="inner"):
                client.chat.completions.create(model="m", messages=messages("b"))
        client.chat.completions.create(model="m", messages=messages("c"))
    assert [step.forecast for step in recorded.steps] == [Forecast(next="fork", fan_out=8), None, None]
    assert "next=fork;width=8" in recorded.calls[0].headers["x-llmd-hints"]
    with pytest.raises(ValueError, match="next"):
        Forecast(next="lunch")


class Kept:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.hurried = 0

    @property
    def idle(self) -> bool:
        return self.hurried > 0

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        assert credential.value == "Bearer k"
        self.events.append(make())

    def hurry(self) -> None:
        self.hurried += 1

    def flush(self, timeout: float) -> bool:
        self.hurry()
        return True


def test_another_sender_and_another_clock(server: tuple[RecordingServer, str]) -> None:
    recorded, url = server
    kept = Kept()

    async def main() -> None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)
            async with program("p"):
                await client.chat.completions.create(model="m", messages=messages("a"))

    with use_sender(f"{url}/agent/events", kept), use_clock(lambda: 42.5):
        asyncio.run(main())
    assert [(event.type, event.at) for event in kept.events] == [
        ("program_started", 42.5),
        ("program_finished", 42.5),
    ]
    assert kept.hurried == 1
    assert not recorded.events
    asyncio.run(main())
    recorded.wait_for(lambda: len(recorded.events) == 2)
    assert all(event.at > 1e9 for event in recorded.events)
