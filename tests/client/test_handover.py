"""A program that goes on in other processes and services."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from llmd_agents import (
    continue_program,
    current_baggage,
    current_environment,
    current_headers,
    current_meta,
    instrument,
    program,
)
from llmd_agents.client.frame import current_frame
from llmd_agents.hints import BranchEnded, ForkPosition, Hints, decode_hints
from llmd_agents.serving import Receive, Scope, Send, in_background, send_json
from tests.client.wire import Wire, wired
from tests.recording import RecordingServer, recording_server


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as running:
        yield running


def test_what_goes_on_elsewhere_is_a_branch_that_the_next_step_depends_on(wire: Wire) -> None:
    with program("p", priority=70) as run:
        wire.call("start")
        with run.hand_over("search") as handed:
            # Elsewhere: nothing is known but what was sent.
            with continue_program(handed.headers) as there:
                wire.call("there")
                with there.fork(2) as fork:
                    fork.map(wire.call, ["child 0", "child 1"])
                with there.hand_over() as further, continue_program(further.meta):
                    wire.call("further")
                wire.call("last")
            assert there.id == run.id
            assert there.declared == run.declared
        wire.call("after")
    assert wire.step("there").branch == "h1.0"
    assert wire.step("there").fork == ForkPosition(id="h1", index=0, width=1)
    assert wire.parents("there") == {"start"}
    assert wire.parents("after") == {"h1"}
    assert wire.step("after").join == "all"
    assert wire.told == [
        "program_started",
        "fork_declared",  # h1
        "fork_declared",
        "branch_ended",
        "branch_ended",
        "joined",
        "fork_declared",  # the one handed over from there
        "branch_ended",
        "joined",
        "branch_ended",  # h1.0
        "joined",
        "program_finished",
    ]
    # No two things of the program have the same id, though each side counts for itself.
    steps = [hints.step.id for [hints] in wire.hints.values() if hints is not None]
    assert len(set(steps)) == len(steps) == 7
    assert len(wire.outcomes) == 4
    assert set(wire.outcomes.values()) == {"ok"}


def test_a_hand_over_that_is_withdrawn(wire: Wire) -> None:
    """As where the other side tells that it made no call."""
    with program("p") as run:
        wire.call("start")
        unused, used = run.hand_over("unused"), run.hand_over("used")
        with unused, used:
            unused.withdraw()
        wire.call("after")
        assert [fork.name for fork in run.report().forks] == ["used"]
    assert wire.parents("after") == {"h2"}
    assert wire.outcomes == {"h1.0": "abandoned"}
    assert wire.told.count("joined") == 1


def test_nothing_follows_from_hand_overs_that_are_all_withdrawn(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")
        over = run.hand_over()
        with over:
            over.withdraw()
        wire.call("after")
    assert wire.parents("after") == {"start"}
    assert wire.step("after").join is None
    assert wire.told == ["program_started", "fork_declared", "branch_ended", "program_finished"]


def test_a_hand_over_is_one_block() -> None:
    with program("p") as run:
        over = run.hand_over()
        with over, pytest.raises(RuntimeError, match="handed over already"):
            over.__enter__()


def test_the_same_hand_over_taken_up_twice(wire: Wire) -> None:
    """As when a request is sent again."""
    with program("p"):
        wire.call("start")
        headers = current_headers()
        for text in ("one", "two"):
            with continue_program(headers):
                wire.call(text)
    one, two = wire.step("one"), wire.step("two")
    assert one.branch == two.branch == "h1.0"
    assert one.id != two.id
    assert one.parents == two.parents == ("s1",)


def test_each_carrier_hands_over_a_branch_of_its_own(wire: Wire) -> None:
    with program("p") as run:
        wire.call("start")
        carriers: list[Any] = [
            current_headers(),
            current_environment(),
            current_meta(),
            list(current_headers().items()),
            [(key.upper().encode(), value.encode()) for key, value in current_headers().items()],
            current_headers()["x-llmd-hints"],
            {**os.environ, **current_environment()},
        ]
        for carrier in carriers:
            with continue_program(carrier) as there:
                assert there.id == run.id
                assert there.here().frontier == ("s1",)
        assert len({str(carrier) for carrier in carriers}) == len(carriers)
        wire.call("after")
    assert wire.parents("after") == {"start"}  # nothing said that it waits for them


def test_outside_of_a_program_nothing_is_handed_over() -> None:
    assert current_headers() == current_environment() == current_meta() == {}
    assert current_baggage() is None


def test_failures_elsewhere(wire: Wire) -> None:
    def fail_there(headers: dict[str, str]) -> None:
        with continue_program(headers):
            wire.call("there")
            raise ZeroDivisionError

    with program("p") as run:
        wire.call("start")
        with run.hand_over() as handed, pytest.raises(ZeroDivisionError):
            fail_there(handed.headers)
        with pytest.raises(ZeroDivisionError), run.hand_over():
            _ = 1 / 0
        wire.call("after")
    assert wire.outcomes == {"h1.0": "error"}
    assert wire.parents("after") == {"h2"}


def test_baggage_names_the_program_and_counts_only_where_it_is_asked_for(wire: Wire) -> None:
    with program("p", priority=90) as run:
        baggage = current_baggage()
        assert baggage == f"llmd-program={run.id}"
        headers = {"Baggage": f"a=b;c=d,{baggage};x=y , e=f"}
        with continue_program(headers) as stranger:
            assert stranger.id != run.id
        with continue_program(headers, baggage=True) as there:
            assert there.id == run.id
            assert there.declared.priority == 50  # the id is all that is told
            wire.call("there")
    assert wire.step("there").branch not in ("main", "h1.0")
    assert wire.outcomes == {wire.step("there").branch: "ok"}
    assert wire.told == ["branch_ended"]


def test_a_step_that_was_passed_on_is_followed_on_a_branch_of_its_own(wire: Wire) -> None:
    """A service behind the model calls' own header, rather than one that was handed the program."""
    passed = 'v=1, program="p";priority=80, step="s7";branch="f1.3", parents=("s3")'
    with continue_program({"X-LLMD-Hints": passed}) as run:
        wire.call("here")
        assert run.id == "p"
        assert run.declared.priority == 80
    step = wire.step("here")
    assert step.parents == ("s7",)
    assert step.branch not in ("main", "f1.3")


GARBAGE: list[Any] = [
    None,
    {},
    "",
    b"\xff\x00",
    "v=2, program=p",
    {"x-llmd-hints": "nonsense"},
    {"x-llmd-hints": 'v=1, program="' + "p" * 1_000_000 + '", step="s"'},
    {"x-llmd-hints": 7, "llmd-agents/hints": {"a": 1}, "LLMD_AGENTS_PROGRAM": None},
    {"baggage": "llmd-program=", "x": ["y"]},
    {"baggage": "llmd-program=no id," * 100_000},
    [("one",), 3],
    42,
    object(),
]


@pytest.mark.parametrize("carrier", GARBAGE, ids=range(len(GARBAGE)))
def test_carriers_that_hold_nothing_begin_a_program(wire: Wire, carrier: Any) -> None:
    with continue_program(carrier, name="worker", baggage=True) as run:
        wire.call("call")
    assert run.declared.name == "worker"
    assert wire.told == ["program_started", "program_finished"]
    assert wire.step("call").branch == "main"


carriers = st.recursive(
    st.none() | st.text() | st.binary() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x-llmd-hints", "baggage", "llmd-agents/hints", "a"]), inner)
        | st.lists(st.tuples(inner, inner), max_size=4)
    ),
)


@given(carriers)
def test_no_carrier_raises(carrier: Any) -> None:
    with continue_program(carrier, baggage=True) as run:
        assert run.id


def test_a_read_that_fails_begins_a_program() -> None:
    class Hostile(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("no")

    with continue_program(Hostile()) as run:
        assert run.declared.name == "undeclared"


CHILD = """
import os, sys
from openai import OpenAI
from llmd_agents import continue_program, instrument

def ask(text):
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

with OpenAI(base_url=sys.argv[1], api_key="k") as client:
    instrument(client)
    if sys.argv[2] == "declares":
        with continue_program(os.environ) as run:
            with run.fork(2) as fork:
                fork.map(ask, ["one", "two"])
    elif sys.argv[2] == "forks":
        if (child := os.fork()) == 0:
            with continue_program(None):
                pass
        ask("parent" if child else "child")
        if child:
            os.waitpid(child, 0)
    else:
        ask("one")
        with OpenAI(base_url=sys.argv[1], api_key="k") as client:
            instrument(client)
            ask("two")
"""


def in_subprocess(url: str, how: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, url, how],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def steps_by_text(recorded: RecordingServer) -> dict[str, Hints]:
    return {request.json["messages"][0]["content"]: request.hints for request in recorded.calls}


@pytest.mark.parametrize("how", ["declares", "says nothing"])
def test_a_subprocess(how: str) -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)

        def ask(text: str) -> None:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        with program("parent") as run:
            ask("start")
            with run.hand_over("worker") as handed:
                in_subprocess(url, how, handed.environment)
            ask("after")
        steps = steps_by_text(recorded)
        assert {hints.program.id for hints in steps.values()} == {run.id}
        assert steps["after"].step.parents == ("h1",)
        assert steps["one"].step.parents == ("s1",)
        ended = [event for event in recorded.events if isinstance(event, BranchEnded)]
        assert ("h1.0", "ok") in [(event.branch, event.outcome) for event in ended]
        if how == "declares":
            assert {steps[text].step.branch.rpartition(".")[2] for text in ("one", "two")} == {"0", "1"}
            assert len(ended) == 3
        else:
            # All of its clients are on the branch that was handed over; the process's end is the branch's.
            assert steps["one"].step.branch == steps["two"].step.branch == "h1.0"
            assert steps["two"].step.parents == (steps["one"].step.id,)
            assert len(ended) == 1
        assert sum(event.type == "program_finished" for event in recorded.events) == 1


def test_a_subprocess_with_a_variable_that_holds_nothing() -> None:
    with recording_server() as (recorded, url):
        in_subprocess(url, "says nothing", {"LLMD_AGENTS_PROGRAM": "nonsense"})
        assert {hints.program.name for hints in steps_by_text(recorded).values()} == {"undeclared"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
def test_a_forked_child_counts_for_itself() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("parent"):
            in_subprocess(url, "forks", current_environment())
        steps = steps_by_text(recorded)
        assert steps["parent"].program == steps["child"].program
        assert steps["parent"].step.id != steps["child"].step.id


def test_a_service() -> None:
    """An HTTP service whose handler goes on with the program that the request's headers hand over."""
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)

        def ask(text: str) -> None:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

        async def service(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                for kind in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{kind}.complete"})
                return
            assert current_frame() is None
            with continue_program(scope["headers"], name="service") as run, run.label(agent="service"):
                ask(scope["path"])
            await send_json(send, 200, {})

        from llmd_agents.client.sender import httpx

        with in_background(service) as there, httpx.Client(base_url=there) as http, program("caller") as run:
            ask("start")
            with run.hand_over("service") as handed:
                assert http.get("/handed", headers=handed.headers).status_code == 200
            assert http.get("/plain").status_code == 200
            ask("after")
        steps = steps_by_text(recorded)
        assert steps["/handed"].program.id == run.id
        assert steps["/handed"].step.agent == "service"
        assert steps["/handed"].step.parents == ("s1",)
        assert steps["/plain"].program.name == "service"
        assert steps["after"].step.parents == ("h1",)


def test_the_value_is_a_header_that_any_reader_of_hints_takes() -> None:
    with program("Prüfung", priority=70, deadline=1e9) as run:
        decoded = decode_hints(current_headers()["x-llmd-hints"])
    assert decoded.hints is not None
    assert not decoded.rejected
    assert not decoded.ignored
    assert decoded.hints.program == run.declared
