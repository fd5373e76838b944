"""A fault in every hook in turn: what the application gets is what it gets without the library."""

import asyncio
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import instrument, program, tool
from llmd_agents.client import (
    answer,
    hooks,
    known_context,
    live_lint,
    outbox,
    place,
    prompt,
    sender,
    steps,
    trail,
    translator,
    watched_answer,
)
from llmd_agents.client.compaction import Conversations
from llmd_agents.client.observer import _observers
from tests.recording import Recorded, Reply, recording_server

HELLO: Any = [{"role": "user", "content": "hello"}]

BROKEN: list[tuple[Any, str]] = [
    (hooks, "begin_step"),
    (hooks, "place_of"),
    (hooks, "current_frame"),
    (hooks, "sender_for"),
    (hooks, "watch"),
    (hooks, "lint"),
    (translator.Translator, "add"),
    (translator, "apply_headers"),
    (translator, "apply_body"),
    (place, "_place"),
    (prompt, "chain"),
    (prompt, "chain_after"),
    (steps, "read_prompt"),
    (steps, "encode_hints"),
    (steps, "drafts_of"),
    (steps, "decode_ack"),
    (steps, "learn"),
    (live_lint, "_live"),
    (live_lint.LiveLint, "compare"),
    (known_context, "mark_of"),
    (answer, "parse"),
    (answer.Answer, "feed"),
    (answer.Answer, "end"),
    (watched_answer, "Answer"),
    (Conversations, "follow"),
    (trail.Trail, "open"),
    (trail.Trail, "told"),
    (trail.Trail, "known_links"),
    (outbox.Outbox, "add_sender"),
    (steps.PendingStep, "on_answer"),
    (steps.PendingStep, "on_end"),
    (steps.PendingStep, "on_failure"),
    (steps.PendingStep, "start"),
]


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("fault")


@pytest.fixture(autouse=True)
def _new_places() -> None:
    place._places = type(place._places)(1024)


def outcomes(client: OpenAI) -> list[Any]:
    """Makes calls of several kinds; returns what each gave, results and errors alike."""
    create: Any = client.chat.completions.create
    gone: Any = client.with_options(base_url="http://127.0.0.1:9/v1", max_retries=0)
    ways: list[Callable[[], Any]] = [
        lambda: create(model="m", messages=HELLO).model_dump(),
        lambda: [chunk.model_dump() for chunk in create(model="m", messages=HELLO, stream=True)],
        lambda: client.chat.completions.with_raw_response.create(model="m", messages=HELLO).content,
        lambda: create(model="refuse", messages=HELLO),
        lambda: gone.chat.completions.create(model="m", messages=HELLO),
        lambda: create(model="twice", messages=HELLO).model_dump(),
    ]
    found: list[Any] = []
    for way in ways:
        try:
            found.append(way())
        except openai.OpenAIError as error:
            found.append((type(error), str(error)))
    return found


class _Replies:
    """Refuses one model, and another one every other time."""

    def __init__(self) -> None:
        self._times = 0

    def __call__(self, request: Recorded) -> Reply:
        model = request.json["model"]
        if model == "refuse":
            return Reply(status=400)
        if model == "twice":
            self._times += 1
            if self._times % 2:
                return Reply(status=503, headers={"retry-after-ms": "1"})
        return Reply(headers={"x-llmd-ack": "v=1"})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with recording_server(_Replies()) as (_, url):
        yield url


@pytest.fixture(scope="module")
def without_library(server: str) -> list[Any]:
    with OpenAI(base_url=server, api_key="k") as client:
        return outcomes(client)


@pytest.mark.parametrize(("where", "name"), BROKEN, ids=lambda part: getattr(part, "__name__", part))
def test_a_fault_is_not_felt(
    where: Any, name: str, server: str, without_library: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, fail)
    with OpenAI(base_url=server, api_key="k") as client:
        instrument(client, dialects=["openai"])
        with program("p"):
            declared = outcomes(client)
        undeclared = outcomes(client)
    assert declared == without_library
    assert undeclared == without_library


class _Broken:
    """An observer that fails at everything."""

    def __getattr__(self, name: str) -> Any:
        return fail


@pytest.fixture
def broken_observer() -> Iterator[None]:
    _observers.append(_Broken())
    yield
    _observers.pop()


@pytest.mark.usefixtures("broken_observer")
def test_a_broken_observer_is_not_felt(server: str, without_library: list[Any]) -> None:
    @tool
    def double(number: int) -> int:
        return 2 * number

    with OpenAI(base_url=server, api_key="k") as client:
        instrument(client)
        with program("p") as run, run.fork(2) as fork:
            found = outcomes(client)
            assert fork.map(double, [1, 2]) == [2, 4]
    assert found == without_library
    assert len(run.history.steps) == 6


def test_warnings_that_are_errors_are_not_felt() -> None:
    with (
        warnings.catch_warnings(),
        recording_server() as (recorded, url),
        OpenAI(base_url=url, api_key="k") as client,
    ):
        warnings.simplefilter("error")
        instrument(client)
        with program("p"):
            for minute in range(3):
                said: Any = [{"role": "system", "content": f"It is 2026-01-01T10:0{minute}:00Z."}, *HELLO]
                client.chat.completions.create(model="m", messages=said)
    assert len(recorded.steps) == 3


def test_calls_do_not_wait_for_events() -> None:
    """The events' server answers only after the calls have returned: had one waited, nothing would go on."""
    returned = threading.Event()

    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.before_events = lambda: returned.wait(30)
        instrument(client)
        with program("p") as run:
            with run.fork(20) as fork:
                fork.map(lambda _: client.chat.completions.create(model="m", messages=HELLO), range(20))
            recorded.wait_for(lambda: bool(recorded.event_posts))
            returned.set()
    assert len(recorded.calls) == 20


def test_a_full_queue_drops_the_oldest_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "QUEUE_MAX", 4)
    released = threading.Event()
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.before_events = lambda: released.wait(30)
        instrument(client)
        with program("p") as run:
            client.chat.completions.create(model="m", messages=HELLO)
            recorded.wait_for(lambda: bool(recorded.event_posts))
            with run.fork(50) as fork:
                assert fork.map(lambda number: number, range(50)) == list(range(50))
            events = sender.sender_for(f"{url}/agent/events")
            released.set()
    assert isinstance(events, sender.EventSender)
    assert events.dropped >= 40


def test_the_applications_random_numbers_stay_as_they_are() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.events_status = 503
        random.seed(7)
        before = random.getstate()
        instrument(client)
        with program("p"):
            client.chat.completions.create(model="m", messages=HELLO)
            recorded.wait_for(lambda: len(recorded.event_posts) > 1)
    assert random.getstate() == before


@pytest.mark.parametrize("status", [404, 401, 500, 302])
def test_a_server_that_takes_no_events_is_not_felt(status: int) -> None:
    async def main(url: str) -> str | None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)
            async with program("p") as run, run.fork(3) as fork:
                replies = await fork.map(
                    lambda _: client.chat.completions.create(model="m", messages=HELLO), range(3)
                )
            return replies[0].choices[0].message.content

    with recording_server() as (recorded, url):
        recorded.events_status = status
        assert asyncio.run(main(url)) == "fine"
