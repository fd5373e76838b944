"""The hooks: what they add, and that nothing they do can be felt by the call."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import instrument, program
from llmd_agents.client import sender, steps
from llmd_agents.client.implicit import IDLE_SECONDS, ImplicitProgram
from llmd_agents.client.run import Run
from llmd_agents.hints import chain
from tests.recording import Recorded, Reply, recording_server

HELLO: Any = [{"role": "user", "content": "hello"}]


def test_only_a_header_is_added() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        client.chat.completions.create(model="m", messages=HELLO, temperature=0.5)
        instrument(client)
        with program("p"):
            client.chat.completions.create(model="m", messages=HELLO, temperature=0.5)
    plain, hinted = recorded.calls
    assert hinted.body == plain.body
    assert set(hinted.headers) - set(plain.headers) == {"x-llmd-hints"}


def test_a_retry_is_the_same_step() -> None:
    failures = iter([503, 429])

    def reply(request: Recorded) -> Reply:
        return Reply(status=next(failures, 200), headers={"retry-after-ms": "1"})

    with recording_server(reply) as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            client.chat.completions.create(model="m", messages=HELLO)
            client.chat.completions.create(model="m", messages=HELLO)
    assert [hints.step.id for hints in recorded.steps] == ["s1", "s1", "s1", "s2"]
    assert recorded.steps[3].step.parents == ("s1",)


def test_the_same_call_made_again_elsewhere_is_another_step() -> None:
    """As when an application retries by itself, around a program or in another branch."""
    with (
        recording_server(lambda _: Reply(status=400)) as (recorded, url),
        OpenAI(base_url=url, api_key="k") as client,
    ):
        instrument(client)

        def attempt() -> None:
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="m", messages=HELLO)

        for _ in range(2):
            with program("again") as run, run.fork(2) as fork:
                for _ in range(2):
                    with fork.branch():
                        attempt()
        attempt()
    assert len({hints.program.id for hints in recorded.steps}) == 3
    assert [hints.step.branch for hints in recorded.steps] == ["f1.0", "f1.1", "f1.0", "f1.1", "b1"]


def test_a_failed_call_leaves_no_edge() -> None:
    statuses = iter([200, 400])

    def reply(request: Recorded) -> Reply:
        return Reply(status=next(statuses, 200))

    with recording_server(reply) as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            for text in "abc":
                messages: Any = [{"role": "user", "content": text}]
                try:
                    client.chat.completions.create(model="m", messages=messages)
                except openai.BadRequestError:
                    assert text == "b"
    assert [hints.step.parents for hints in recorded.steps] == [(), ("s1",), ("s1",)]


def test_streams_and_options_carry_hints() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "fine"
            client.with_options(timeout=5).chat.completions.create(model="m", messages=HELLO)
            client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert [hints.step.parents for hints in recorded.steps] == [(), ("s1",), ("s2",)]


def test_a_header_of_the_callers_own_wins() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            client.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-llmd-hints": "own"})
    assert recorded.calls[0].headers["x-llmd-hints"] == "own"


def test_resync_is_answered_with_the_whole_list() -> None:
    def reply(request: Recorded) -> Reply:
        asked = len(request.json["messages"]) == 3
        return Reply(headers={"x-llmd-ack": "v=1, resync" if asked else "v=1"})

    with recording_server(reply) as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            for count in (1, 3, 5, 7):
                client.chat.completions.create(model="m", messages=HELLO * count)
    assert [hints.extends is None for hints in recorded.steps] == [True, False, True, False]
    assert [len(hints.segments) for hints in recorded.steps] == [1, 2, 5, 2]


@pytest.mark.parametrize("ack", ["", "((", "v=9, resync", "resync=1", "a" * 4000])
def test_a_hostile_ack_changes_nothing(ack: str) -> None:
    with (
        recording_server(lambda _: Reply(headers={"x-llmd-ack": ack})) as (recorded, url),
        OpenAI(base_url=url, api_key="k") as client,
        program("p"),
    ):
        instrument(client)
        for count in (1, 3):
            reply = client.chat.completions.create(model="m", messages=HELLO * count)
            assert reply.choices[0].message.content == "fine"
    assert recorded.steps[1].step.parents == ("s1",)


@pytest.mark.parametrize("broken", ["read_prompt", "encode_hints", "drafts_of", "decode_ack", "tell"])
def test_a_fault_inside_the_hooks_is_not_felt(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("fault")

    monkeypatch.setattr(steps, broken, fail)
    with (
        recording_server(lambda _: Reply(headers={"x-llmd-ack": "v=1"})) as (recorded, url),
        OpenAI(base_url=url, api_key="k") as client,
        program("p"),
    ):
        instrument(client)
        reply = client.chat.completions.create(model="m", messages=HELLO)
    assert reply.choices[0].message.content == "fine"
    assert len(recorded.calls) == 1


def test_other_routes_are_left_alone() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            client.post("/embeddings", body={"model": "m"}, cast_to=object)
    assert recorded.requests[0].path == "/v1/embeddings"
    assert "x-llmd-hints" not in recorded.requests[0].headers


def test_instrumenting_twice_adds_one_header() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        assert instrument(instrument(client)) is client
        with program("p"):
            client.chat.completions.create(model="m", messages=HELLO)
    assert recorded.steps[0].step.id == "s1"


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an openai"):
        instrument("client")  # type: ignore[type-var]


def test_async_client_type_is_kept() -> None:
    client: AsyncOpenAI = instrument(AsyncOpenAI(base_url="http://127.0.0.1:1", api_key="k"))
    assert isinstance(client, AsyncOpenAI)


# --- events


def test_a_server_without_events_is_asked_once() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.events_status = 404
        instrument(client)
        for _ in range(3):
            with program("p"):
                client.chat.completions.create(model="m", messages=HELLO)
    assert len(recorded.event_posts) == 1


def test_events_are_sent_again_after_a_passing_fault() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        recorded.events_status = 503
        with program("p") as run:
            client.chat.completions.create(model="m", messages=HELLO)
            recorded.wait_for(lambda: len(recorded.event_posts) >= 2)
            recorded.events_status = 202
        run.outbox.flush(5)
    bodies = [post.body for post in recorded.event_posts]
    assert bodies[0] == bodies[1]


def test_a_dead_events_endpoint_is_not_felt(caplog: pytest.LogCaptureFixture) -> None:
    events = sender.EventSender("http://127.0.0.1:9/v1/agent/events")
    with program("p") as run:
        run.outbox.add_sender(events, {})
        for _ in range(3):
            with run.fork(1):
                pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_changed_credential_sends_nothing_twice() -> None:
    with recording_server() as (recorded, url):
        with program("p") as run:
            for key in ("one", "two"):
                with OpenAI(base_url=url, api_key=key) as client:
                    instrument(client)
                    client.chat.completions.create(model="m", messages=HELLO)
                    run.outbox.flush(5)
        run.outbox.flush(5)
    assert [post.headers["authorization"] for post in recorded.event_posts] == ["Bearer one", "Bearer two"]
    assert [event.type for event in recorded.events] == ["program_started", "program_finished"]


def test_the_end_of_an_async_program_waits_for_no_thread_of_the_application() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        release = threading.Event()
        for _ in range(64):
            loop.run_in_executor(None, release.wait, 30)
        began = time.monotonic()
        async with program("p") as run:
            run.outbox.add_sender(sender.EventSender("http://127.0.0.1:9/"), {})
        took = time.monotonic() - began
        release.set()
        return took

    assert asyncio.run(main()) < 20  # the executor's threads are held for 30 s


def test_a_forked_child_sends_its_own_events() -> None:
    with recording_server() as (recorded, url):
        code = FORKING.format(url=url)
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=30)
    assert done.returncode == 0
    names = [event.program.split("-")[0] for event in recorded.events if event.type == "program_finished"]
    assert sorted(names) == ["child", "parent"]


FORKING = """
import os, sys
from openai import OpenAI
from llmd_agents import instrument, program

def run(name):
    with OpenAI(base_url="{url}", api_key="k") as client, program(name):
        instrument(client)
        client.chat.completions.create(model="m", messages=[dict(role="user", content="x")])

run("parent")
child = os.fork()
if not child:
    run("child")
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_full_queue_drops_the_oldest() -> None:
    run = Run(program("p").declared)
    events = sender.EventSender("http://127.0.0.1:9/")
    events._thread = object()  # type: ignore[assignment]  # nobody takes anything out
    run.outbox.add_sender(events, {})
    for _ in range(sender.QUEUE_MAX + 10):
        run.finish()
    assert events.dropped == 10


# --- programs of clients that declare nothing


def test_undeclared_calls_form_branches_by_context() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        for texts in ("a", "ax", "b", "axy", "bz"):
            conversation: Any = [{"role": "user", "content": text} for text in texts]
            client.chat.completions.create(model="m", messages=conversation)
    steps_of = [(hints.step.branch, hints.step.parents) for hints in recorded.steps]
    assert steps_of == [("b1", ()), ("b1", ("s1",)), ("b2", ()), ("b1", ("s2",)), ("b2", ("s3",))]
    assert len({hints.program.id for hints in recorded.steps}) == 1


def test_an_undeclared_program_ends_when_idle() -> None:
    now = 0.0
    implicit = ImplicitProgram("undeclared", clock=lambda: now)
    links = chain({"model": "m", "messages": HELLO})
    first = implicit.frame(links).branch
    implicit.answered(first, links[-1].digest)
    assert implicit.frame(links).branch is first
    now += IDLE_SECONDS + 1
    assert implicit.frame(links).branch.run is not first.run


def test_undeclared_branches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmd_agents.client.implicit.BRANCHES_MAX", 3)
    implicit = ImplicitProgram("undeclared")
    for number in range(10):
        links = chain({"model": "m", "messages": [{"role": "user", "content": str(number)}]})
        implicit.answered(implicit.frame(links).branch, links[-1].digest)
    assert len(implicit._branches) == len(implicit._ends) == len(implicit._by_end) == 3
