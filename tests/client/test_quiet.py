"""What goes wrong inside the library is logged without what it quotes, and felt by nobody."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import pytest

from llmd_agents.client import faults
from llmd_agents.client.sender import Credential, EventSender
from llmd_agents.hints import ProgramFinished
from tests.recording import recording_server


def test_a_fault_is_logged_by_its_kind_and_place_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llmd_agents")
    with faults("a step has no hints"):
        raise ValueError("the secret prompt")
    (line,) = caplog.messages
    assert line.startswith("a step has no hints: ValueError at test_quiet.py:")
    assert "secret" not in caplog.text


def test_a_function_may_be_marked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "llmd_agents")
    done: list[int] = []

    @faults("a hook failed")
    def hook(number: int) -> None:
        done.append(10 // number)

    hook(0)
    hook(5)
    assert done == [2]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_what_stops_the_program_passes(error: type[BaseException]) -> None:
    with pytest.raises(error), faults("nothing"):
        raise error


def test_an_event_that_cannot_be_built_is_lost_alone() -> None:
    def finished(program: str) -> Callable[[], ProgramFinished]:
        return partial(ProgramFinished, program=program, at=0.0)

    def bad() -> ProgramFinished:
        raise ValueError("no such event")

    with recording_server() as (server, url):
        sender = EventSender(f"{url}/agent/events")
        for make in (finished("a"), bad, bad, finished("b")):
            sender.put(make, Credential({}))
        assert sender.flush(30)
        assert sender.dropped == 2
        assert [event.program for event in server.events] == ["a", "b"]
