"""Any program of forks, loops, overlapping calls and inner programs tells the structure that a plain model
of it has: parents, joins, loops and outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents import Run, program
from llmd_agents.client.join import Join
from tests.client.wire import Wire, wired


@dataclass(frozen=True)
class Call: ...


@dataclass(frozen=True)
class Overlap:
    """Calls at once, without a fork. In threads they come one after the other."""

    count: int


@dataclass(frozen=True)
class Fail: ...


@dataclass(frozen=True)
class Abandon: ...


@dataclass(frozen=True)
class Repeat:
    limit: int
    leave_after: int
    body: Body


@dataclass(frozen=True)
class Forked:
    join: Join
    spare: int
    children: tuple[Body, ...]
    at_once: bool


@dataclass(frozen=True)
class Inner:
    body: Body


Node: TypeAlias = Call | Overlap | Fail | Abandon | Repeat | Forked | Inner
Body: TypeAlias = tuple[Node, ...]


T = TypeVar("T")


class Boom(Exception): ...


def _in_order(drawn: list[T]) -> tuple[T, ...]:
    return tuple(drawn)


def _bodies(inner: st.SearchStrategy[Body]) -> st.SearchStrategy[Body]:
    forks = st.builds(
        lambda join, spare, children, at_once: Forked(
            min(join, len(children) + spare) if isinstance(join, int) else join, spare, children, at_once
        ),
        st.sampled_from(["all", "all", "any", 1, 2]),
        st.integers(0, 1),
        st.lists(inner, min_size=1, max_size=3).map(lambda children: tuple(children)),
        st.booleans(),
    )
    nodes: st.SearchStrategy[Node] = (
        st.builds(Call)
        | st.builds(Overlap, st.integers(2, 3))
        | st.builds(Repeat, st.integers(1, 3), st.integers(1, 3), inner)
        | forks
        | st.builds(Inner, inner)
        | st.sampled_from([Fail(), Abandon()])
    )
    return st.lists(nodes, max_size=4).map(_in_order)


bodies = st.recursive(st.just((Call(),)), _bodies, max_leaves=8)


def _fails(body: Body) -> bool:
    """Whether something in a body may raise, so that what runs beside it may be cut short anywhere."""
    return any(
        isinstance(node, Fail)
        or (isinstance(node, Repeat | Inner) and _fails(node.body))
        or (isinstance(node, Forked) and any(map(_fails, node.children)))
        for node in body
    )


def _limit(node: Forked) -> int | None:
    """One child at a time wherever it matters which is first."""
    return None if node.at_once and node.join == "all" and not any(map(_fails, node.children)) else 1


@dataclass(frozen=True)
class Told:
    """What a step says of itself, in names rather than ids."""

    program: str
    branch: str
    parents: frozenset[str]
    join: Join | None
    turn: tuple[int, int] | None


# --- the model


@dataclass
class Chain:
    program: str
    name: str
    frontier: frozenset[str] = frozenset()
    join: Join | None = None
    turns: list[tuple[int, int]] = field(default_factory=list)
    outcome: str | None = None


class Model:
    def __init__(self, tasks: bool) -> None:
        self.steps: dict[str, Told] = {}
        self.outcomes: dict[tuple[str, str], str] = {}
        self._tasks = tasks

    def run(self, body: Body, path: str, chain: Chain) -> None:
        for number, node in enumerate(body):
            self.node(node, f"{path}/{number}", chain)

    def node(self, node: Node, path: str, chain: Chain) -> None:
        match node:
            case Call():
                self.call(path, chain)
            case Overlap(count):
                names = [f"{path}~{number}" for number in range(count)]
                if self._tasks:
                    for name in names:
                        self.steps[name] = self.told(chain)
                    chain.frontier, chain.join = frozenset(names), None
                else:
                    for name in names:
                        self.call(name, chain)
            case Fail():
                raise Boom
            case Abandon():
                chain.outcome = chain.outcome or "abandoned"
            case Repeat(limit, leave_after, inner):
                for turn in range(min(limit, leave_after)):
                    chain.turns.append((turn, limit))
                    try:
                        self.run(inner, f"{path}#{turn}", chain)
                    finally:
                        chain.turns.pop()
            case Forked():
                try:
                    self.fork(node, path, chain)
                finally:
                    chain.frontier, chain.join = frozenset([path]), node.join
            case Inner(inner):
                self.run(inner, path, Chain(path, "main"))

    def told(self, chain: Chain) -> Told:
        turn = chain.turns[-1] if chain.turns else None
        return Told(chain.program, chain.name, chain.frontier, chain.join, turn)

    def call(self, name: str, chain: Chain) -> None:
        self.steps[name] = self.told(chain)
        chain.frontier, chain.join = frozenset([name]), None

    def fork(self, node: Forked, path: str, chain: Chain) -> None:
        count = len(node.children)
        wanted = node.join if isinstance(node.join, int) else count if node.join == "all" else 1
        won = failed = withdrew = 0
        for index, child in enumerate(node.children):
            needed = min(wanted, count - withdrew)
            clear = won >= needed or count - withdrew - failed < needed
            if clear and not (node.join == "all" and not self._tasks):
                break
            branch = Chain(chain.program, f"{path}.{index}", chain.frontier, chain.join)
            try:
                self.run(child, f"{path}.{index}", branch)
            except Boom:
                failed += 1
                branch.outcome = branch.outcome or "error"
            else:
                if branch.outcome == "abandoned" and node.join != "all":
                    withdrew += 1
                else:
                    won += 1
                branch.outcome = branch.outcome or "ok"
            self.outcomes[chain.program, branch.name] = branch.outcome
        if failed and won < min(wanted, count - withdrew):
            raise Boom


# --- the library


class Library:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.runs: list[Run] = []

    def open(self, path: str) -> Run:
        run = program(path)
        self.runs.append(run)
        return run

    def run(self, run: Run, body: Body, path: str) -> None:
        for number, node in enumerate(body):
            self.node(run, node, f"{path}/{number}")

    def node(self, run: Run, node: Node, path: str) -> None:
        match node:
            case Call():
                self.wire.call(path)
            case Overlap(count):
                for number in range(count):
                    self.wire.call(f"{path}~{number}")
            case Fail():
                raise Boom
            case Abandon():
                if run.here() is not run.root:
                    run.here().abandon()
            case Repeat(limit, leave_after, inner):
                for turn in run.loop(limit=limit):
                    self.run(run, inner, f"{path}#{turn}")
                    if turn + 1 == leave_after:
                        break
            case Forked(join, spare, children):
                with run.fork(len(children) + spare, name=path, join=join) as fork:

                    def child(index: int) -> None:
                        self.run(run, children[index], f"{path}.{index}")

                    fork.map(child, range(len(children)), limit=_limit(node))
            case Inner(inner):
                with self.open(path) as inner_run:
                    self.run(inner_run, inner, path)

    async def arun(self, run: Run, body: Body, path: str) -> None:
        for number, node in enumerate(body):
            await self.anode(run, node, f"{path}/{number}")

    async def anode(self, run: Run, node: Node, path: str) -> None:
        match node:
            case Call():
                await self.wire.acall(path)
            case Overlap(count):
                await asyncio.gather(*(self.wire.acall(f"{path}~{number}") for number in range(count)))
            case Repeat(limit, leave_after, inner):
                for turn in run.loop(limit=limit):
                    await self.arun(run, inner, f"{path}#{turn}")
                    if turn + 1 == leave_after:
                        break
            case Forked(join, spare, children):
                async with run.fork(len(children) + spare, name=path, join=join) as fork:

                    async def child(index: int) -> None:
                        await self.arun(run, children[index], f"{path}.{index}")

                    await fork.map(child, range(len(children)), limit=_limit(node))
            case Inner(inner):
                async with self.open(path) as inner_run:
                    await self.arun(inner_run, inner, path)
            case _:
                self.node(run, node, path)

    def outcomes(self) -> dict[tuple[str, str], str | None]:
        return {
            (run.declared.name or "", self._named(run, record.branch)): record.outcome
            for run in self.runs
            for record in run.history.branches
        }

    def steps(self) -> dict[str, Told]:
        runs = {run.id: run for run in self.runs}
        sent = {text: hints for text, [hints] in self.wire.hints.items() if hints is not None}
        texts = {(hints.program.id, hints.step.id): text for text, hints in sent.items()}
        told = {}
        for text, hints in sent.items():
            run, step = runs[hints.program.id], hints.step
            parents = (texts.get((run.id, parent)) or self._named(run, parent) for parent in step.parents)
            turn = None if step.loop is None else (step.loop.iteration, step.loop.limit or 0)
            told[text] = Told(
                run.declared.name or "", self._named(run, step.branch), frozenset(parents), step.join, turn
            )
        return told

    def _named(self, run: Run, name: str) -> str:
        """Puts a fork's own name in the place of its id."""
        fork, dot, index = name.partition(".")
        names = {record.fork: record.name for record in run.history.forks}
        return f"{names.get(fork, fork)}{dot}{index}"


def compare(body: Body, tasks: bool) -> None:
    model = Model(tasks)
    expected: list[bool] = []
    try:
        model.run(body, "p", Chain("p", "main"))
    except Boom:
        expected.append(True)

    with wired() as wire:
        library = Library(wire)

        async def main() -> None:
            async with library.open("p") as run:
                await library.arun(run, body, "p")

        raised = False
        try:
            if tasks:
                asyncio.run(main())
            else:
                with library.open("p") as run:
                    library.run(run, body, "p")
        except (Boom, ExceptionGroup) as error:
            raised = _all_boom(error)
        assert library.steps() == model.steps
        assert library.outcomes() == model.outcomes
        assert raised == bool(expected)


def _all_boom(error: Exception) -> bool:
    inner: Sequence[Any] = error.exceptions if isinstance(error, ExceptionGroup) else ()
    return isinstance(error, Boom) or all(map(_all_boom, inner))


@settings(max_examples=60)
@given(bodies)
def test_tasks(body: Body) -> None:
    compare(body, tasks=True)


@settings(max_examples=60)
@given(bodies)
def test_threads(body: Body) -> None:
    compare(body, tasks=False)
