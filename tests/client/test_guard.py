"""The garbage collector and fork() come at any moment; neither may make a call wait for ever."""

import gc
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmd_agents import attach, program
from llmd_agents.client import live_lint
from llmd_agents.client.guard import guard
from llmd_agents.client.implicit import ImplicitProgram
from llmd_agents.client.outbox import Outbox
from llmd_agents.client.sender import Credential
from llmd_agents.hints import chain
from tests.client.listening import Listener

CHUNKS = [b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'] * 3
BODY: Any = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}


class _Chunks(httpx.SyncByteStream):
    def __iter__(self) -> Any:
        return iter(CHUNKS)


def client() -> httpx.Client:
    headers = {"content-type": "text/event-stream"}
    return attach(
        httpx.Client(
            transport=httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=_Chunks()))
        )
    )


def within_seconds(work: Callable[[], object], seconds: float = 20) -> bool:
    """Returns whether something comes to its end at all."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def abandon_stream(http: httpx.Client) -> None:
    """Leaves a stream behind, half read, for the garbage collector alone."""
    request = http.build_request("POST", "http://one/v1/chat/completions", json=BODY)
    response = http.send(request, stream=True)
    lines = response.iter_lines()
    next(lines)
    cycle: list[Any] = [lines, response]
    cycle.append(cycle)


@pytest.mark.parametrize("where", ["client", "linter"])
def test_a_stream_may_be_collected_while_state_is_guarded(where: str) -> None:
    lock = guard if where == "client" else live_lint._live()._watch._lock
    outcomes: list[Any] = []

    def work() -> None:
        with client() as http, program("p") as run:
            gc.collect()
            gc.disable()
            try:
                abandon_stream(http)
                with lock:
                    gc.collect()
            finally:
                gc.enable()
            outcomes.extend(record.outcome for record in run.history.steps)

    assert within_seconds(work)
    assert outcomes == ["cancelled"]


def test_nothing_else_is_called_while_state_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others lock may be locked by a thread that waits for the guard."""
    held: list[str] = []

    class Watching(Listener):
        def put(self, make: Callable[[], Any], credential: Credential) -> None:
            if guard._is_owned():  # type: ignore[attr-defined]
                held.append(make().type)
            super().put(make, credential)

    monkeypatch.setattr("llmd_agents.client.implicit.BRANCHES_MAX", 2)
    now = 0.0
    implicit = ImplicitProgram("undeclared", clock=lambda: now)
    senders = [Watching(), Watching()]
    for number in range(4):
        links = chain({"model": "m", "messages": [{"role": "user", "content": str(number)}]})
        frame = implicit.frame(links)
        frame.branch.run.outbox.add_sender(senders[number % 2], {})
    now += 1e4
    implicit.frame(links)
    assert held == []
    told = [event.type for event in senders[0].events]
    assert told == ["program_started", "branch_ended", "branch_ended", "program_finished"]
    assert [event.type for event in senders[1].events] == told


def test_events_from_before_a_server_was_known_reach_it_once() -> None:
    outbox, listener = Outbox(), Listener()
    with program("p") as run:
        pass
    for make in (first := list(run.outbox._early)):
        outbox.put(make)
    outbox.add_sender(listener, {})
    outbox.add_sender(listener, {"authorization": "key"})
    assert listener.events == [make() for make in first]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["client", "linter"])
def test_a_process_forked_in_the_midst_of_a_call_goes_on(where: str) -> None:
    """Another thread holds the lock at the moment of the fork; the child does not have that thread."""
    lock = guard if where == "client" else live_lint._live()._watch._lock
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            release.wait(0.2 if where == "client" else 30)  # a fork waits for the guard

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(10)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        with client() as http, program("p") as run:
            for text in ("one", "two"):
                messages = [{"role": "user", "content": text}]
                http.post("http://one/v1/chat/completions", json={**BODY, "messages": messages})
        os.write(write, json.dumps([record.outcome for record in run.history.steps]).encode())
        os._exit(0)
    release.set()
    holder.join()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert json.loads(told) == ["ok", "ok"]
