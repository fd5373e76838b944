"""Forks within forks: recorded graph and runtime show the edges that the program's structure implies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from llmd_agents import Run, attach, continue_program, instrument, program
from llmd_agents.client import current_headers
from llmd_agents.client.sender import Credential, httpx, use_sender
from llmd_agents.hints import Event, Hints, decode_hints
from llmd_agents.runtime import ProgramGraph as RuntimeGraph
from llmd_agents.testing import Line, program_graphs, recording_server
from tests.stack.servers import stack, wait_for

Edges: TypeAlias = set[tuple[str, str]]


@dataclass(frozen=True)
class Call: ...


@dataclass(frozen=True)
class Forked:
    """A fork with these branches, and one more that never begins if there is one to `spare`."""

    branches: tuple[Body, ...]
    spare: bool = False


@dataclass(frozen=True)
class Handed:
    """A hand-over, and what is done elsewhere; nothing waits for that unless it is `joined`."""

    body: Body
    joined: bool = True


Node: TypeAlias = Call | Forked | Handed
Body: TypeAlias = tuple[Node, ...]

A = (Call(),)


def implied(body: Body, entry: frozenset[str], path: str, edges: Edges) -> frozenset[str]:
    """Adds the edges of a body to `edges`; returns the calls that what follows it waits for."""
    for here, node in within(path, body):
        if isinstance(node, Call):
            edges |= {(before, here) for before in entry}
            entry = frozenset({here})
            continue
        bodies = node.branches if isinstance(node, Forked) else (node.body,)
        exits = [implied(inner, entry, at, edges) for at, inner in within(here, bodies)]
        if isinstance(node, Forked) or node.joined:
            # A branch without calls is waited for in vain: what follows it follows the others, if any.
            entry = frozenset[str]().union(*(one for one in exits if one != entry)) or entry
    return entry


def within(path: str, items: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(f"{path}.{index}", item) for index, item in enumerate(items)]


async def in_tasks(run: Run, body: Body, path: str, call: Callable[[], Awaitable[object]]) -> None:
    for here, node in within(path, body):
        if isinstance(node, Call):
            with run.label(kind=here):
                await call()
        elif isinstance(node, Forked):
            async with run.fork(len(node.branches) + node.spare) as fork:
                await fork.map(lambda one: in_tasks(run, one[1], one[0], call), within(here, node.branches))
        elif node.joined:
            async with run.hand_over() as handed, continue_program(handed.headers) as there:
                await in_tasks(there, node.body, f"{here}.0", call)
        else:
            async with continue_program(current_headers()) as there:
                await in_tasks(there, node.body, f"{here}.0", call)


def in_threads(run: Run, body: Body, path: str, call: Callable[[], object]) -> None:
    for here, node in within(path, body):
        if isinstance(node, Call):
            with run.label(kind=here):
                call()
        elif isinstance(node, Forked):
            with run.fork(len(node.branches) + node.spare) as fork:
                fork.map(lambda one: in_threads(run, one[1], one[0], call), within(here, node.branches))
        elif node.joined:
            with run.hand_over() as handed, continue_program(handed.headers) as there:
                in_threads(there, node.body, f"{here}.0", call)
        else:
            with continue_program(current_headers()) as there:
                in_threads(there, node.body, f"{here}.0", call)


# --- any program, whenever its events arrive


def forking(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Body]:
    def bodies(inner: st.SearchStrategy[Body]) -> st.SearchStrategy[Body]:
        branches = st.lists(inner, min_size=1, max_size=3).map(tuple)
        return st.lists(nodes | st.builds(Forked, branches, st.booleans()), max_size=3).map(tuple)

    return st.recursive(st.sampled_from([A, ()]), bodies, max_leaves=8)


# Who is handed a program and makes no call has nowhere to tell of what it hands over itself.
elsewhere = forking(st.just(Call()))
programs = forking(st.just(Call()) | st.builds(Handed, elsewhere, st.booleans()))


class Tape:
    """Takes model calls and events, without sockets, in the order in which they leave the program."""

    idle = True

    def __init__(self) -> None:
        self.records: list[Hints | Event] = []

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        self.records.append(make())

    def hurry(self) -> None: ...

    def flush(self, timeout: float) -> bool:
        return True

    def answer(self, request: Any) -> Any:
        hints = decode_hints(request.headers["x-llmd-hints"]).hints
        assert hints is not None
        self.records.append(hints)
        return httpx.Response(200, json={})


URL = "http://tape.invalid/v1"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def taped(body: Body, *, tasks: bool) -> list[Hints | Event]:
    tape = Tape()
    transport = httpx.MockTransport(tape.answer)

    async def main() -> None:
        async with attach(httpx.AsyncClient(transport=transport)) as client, program("nested") as run:
            await in_tasks(run, body, "n", lambda: client.post(f"{URL}/chat/completions", json=BODY))

    with use_sender(f"{URL}/agent/events", tape):
        if tasks:
            asyncio.run(main())
        else:
            with attach(httpx.Client(transport=transport)) as client, program("nested") as run:
                in_threads(run, body, "n", lambda: client.post(f"{URL}/chat/completions", json=BODY))
    return tape.records


def late(records: list[Hints | Event], delays: list[int]) -> list[Hints | Event]:
    """Lets events arrive after some of the calls that were made later; they stay in their order."""
    found: list[tuple[int, int, Hints | Event]] = []
    last = 0
    for place, record in enumerate(records):
        if isinstance(record, Hints):
            found.append((place, 1, record))
        else:
            last = max(last, place + delays[place % len(delays)])
            found.append((last, 0, record))
    return [record for _, _, record in sorted(found, key=lambda one: one[:2])]


def recorded_edges(records: list[Hints | Event]) -> list[tuple[str, str]]:
    (graph,) = program_graphs(records)
    return [(one.label, other.label) for one, other in graph.edges]


def runtime_edges(records: list[Hints | Event]) -> list[tuple[str, str]]:
    graph = RuntimeGraph()
    kinds: dict[str, str] = {}
    for record in records:
        if isinstance(record, Hints):
            graph.step(record, None, 0.0)
            graph.answered(record.program.id, record.step)
            kinds[record.step.id] = record.step.kind or ""
        else:
            graph.apply(record, 0.0)
    program_id = records[0].program.id if isinstance(records[0], Hints) else records[0].program
    found = graph.get(program_id)
    assert found is not None
    return [(kinds[one], kinds[other]) for one, other in found.edges()]


THREE_LEVELS: Body = (
    Forked(((Forked(((Forked((A, A)),), A)),), (Call(), Call()))),
    Forked(((Forked((A, ()), spare=True),), (Forked(((), ())),), ())),
    Forked(((Handed(A),), (Forked(((Handed(()),), A)),), (Handed(A, joined=False),))),
    Handed((Forked(((Forked((A, A)),), ())),)),
)
"""Forks, hand-overs and nothing at all as what a branch consists of."""


@settings(max_examples=30)
@example(body=THREE_LEVELS, delays=[0], tasks=False)
@example(body=THREE_LEVELS, delays=[5, 0, 9], tasks=True)
@given(body=programs, delays=st.lists(st.integers(0, 12), min_size=1, max_size=5), tasks=st.booleans())
def test_any_program_whenever_its_events_arrive(body: Body, delays: list[int], tasks: bool) -> None:
    body = (Call(), *body, Call())
    wanted: Edges = set()
    implied(body, frozenset(), "n", wanted)
    records = taped(body, tasks=tasks)
    assert sorted(recorded_edges(records)) == sorted(wanted)
    assert sorted(runtime_edges(late(records, delays))) == sorted(wanted)


# --- real servers


def ask(client: Any) -> Any:
    return client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=1
    )


def ran(base_url: str, body: Body, *, tasks: bool) -> str:
    """Runs a program against a server; returns its id."""

    async def main() -> str:
        async with instrument(AsyncOpenAI(base_url=base_url, api_key="none")) as client:
            async with program("nested") as run:
                await in_tasks(run, body, "n", lambda: ask(client))
            return run.id

    if tasks:
        return asyncio.run(main())
    with instrument(OpenAI(base_url=base_url, api_key="none")) as client:
        with program("nested") as run:
            in_threads(run, body, "n", lambda: ask(client))
        return run.id


WHOLE: Body = (Call(), *THREE_LEVELS, Call())


@pytest.fixture(scope="module")
def wanted() -> list[tuple[str, str]]:
    edges: Edges = set()
    implied(WHOLE, frozenset(), "n", edges)
    return sorted(edges)


@pytest.mark.parametrize("tasks", [False, True])
def test_what_is_recorded(wanted: list[tuple[str, str]], tasks: bool) -> None:
    with recording_server(Line("fine", times=None)) as server:
        ran(server.base_url, WHOLE, tasks=tasks)
        server.settle()
        graph = server.graph("nested")
    assert sorted((one.label, other.label) for one, other in graph.edges) == wanted


@pytest.mark.parametrize("tasks", [False, True])
def test_what_the_router_shows(wanted: list[tuple[str, str]], tasks: bool) -> None:
    with stack(1) as servers:
        program_id = ran(f"{servers.router}/v1", WHOLE, tasks=tasks)
        wait_for(lambda: servers.program(program_id)["status"] == "ok")
        view = servers.program(program_id)
    kinds = {step["id"]: step["kind"] for step in view["steps"]}
    assert sorted((kinds[one], kinds[other]) for one, other in view["edges"]) == wanted
