"""A program as the application runs it: `with program("essay-grading") as run: …`."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from pydantic import ConfigDict, TypeAdapter

from llmd_agents.hints import ROOT_BRANCH, Program, ProgramFinished, ProgramStarted
from llmd_agents.hints.fields import Id, Name

from . import quiet
from .branch import Branch
from .clock import event_time
from .frame import Entry, Frame, enter_frame, frame, leave_all, leave_frame, open_frames
from .history import History
from .ids import Counter, slug, token
from .known_context import KnownContext
from .loop import Loop
from .observer import tell
from .outbox import Outbox
from .outcome import outcome_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from llmd_agents.hints import Event, Forecast, Outcome, Step
    from llmd_agents.linter import Prices

    from .best_of import Best
    from .fork_block import ForkBlock
    from .handover import HandOverBlock
    from .join import Join
    from .report import Report

T = TypeVar("T")

_ID: TypeAdapter[str] = TypeAdapter(Id, config=ConfigDict(defer_build=True))
_NAME: TypeAdapter[str] = TypeAdapter(Name, config=ConfigDict(defer_build=True))

FLUSH_SECONDS = 0.5
"""How long the end of a program waits, at most, for its last events to leave."""


class Run:
    """One run of a program. Made by `program` or `continue_program`, entered with `with` or `async with`.

    Model calls made inside the block, by clients that `instrument` has prepared, become its steps.
    """

    def __init__(self, declared: Program, *, continues: Step | None = None) -> None:
        self.declared = declared
        self.outbox = Outbox()
        self.history = History(declared.id, declared.name)
        self.context = KnownContext()
        # Elsewhere the same program counts its own, and may have been handed over more than once.
        own = f"{token(4)}." if continues is not None else ""
        self.root = Branch(self, ROOT_BRANCH) if continues is None else _continued(self, continues, own)
        self.step_ids = Counter(f"{own}s")
        self.call_ids = Counter(f"{own}t")
        self.branch_ids = Counter(f"{own}b")
        self.fork_ids = Counter(f"{own}f")
        self._loop_ids = Counter(f"{own}l")
        self._handover_ids = Counter(f"{own}h")
        self._continues = continues is not None
        self.finished = False
        self._entry: Entry | None = None

    @property
    def id(self) -> str:
        return self.declared.id

    def announce(self, make: Callable[[], Event]) -> None:
        """Sends an event; what goes wrong with it is logged and nothing else.

        Args:
            make: builds it, later and in another thread.
        """
        try:
            self.outbox.put(make)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody feels it)
            quiet.note_fault("an event is not sent", error)

    def start(self) -> None:
        self.finished = False
        self.history = history = History(self.id, self.declared.name)
        tell(lambda observer: observer.program_started(history))
        if self._continues:
            self.root.begin()
        else:
            self.announce(partial(ProgramStarted, program=self.id, at=event_time(), declared=self.declared))

    def finish(self, outcome: Outcome = "ok") -> None:
        self.finished = True
        if self._continues:
            self.root.end(outcome)
        else:
            with quiet.faults("the program's last steps are not settled"):
                self.root.settle("abandoned" if outcome == "ok" else outcome)
            self.announce(partial(ProgramFinished, program=self.id, at=event_time(), outcome=outcome))
        history = self.history
        history.ended, history.outcome = history.now(), outcome
        tell(lambda observer: observer.program_ended(history))

    def here(self) -> Branch:
        """Returns the branch that the calling code runs on: the root branch outside of forks."""
        for inside in open_frames():
            if inside.branch.run is self:
                return inside.branch
        return self.root

    def last_step(self) -> str | None:
        """Returns the id of what was last answered on the branch that the calling code runs on, for `after=`.

        After a join that is the fork; before the branch's first step, what the branch started from.
        """
        frontier = self.here().frontier
        return frontier[-1] if frontier else None

    def fork(self, width: int, *, name: str | None = None, join: Join = "all") -> ForkBlock:
        """Declares that `width` branches are about to start from the present context.

            async with run.fork(8, name="grade") as fork:
                grades = await fork.map(grade_one, essays)

        Leaving the block is the join. With a plain `with`, `map` runs the branches in threads.

        Args:
            join: how many of the branches are waited for: "all", the first that succeeds ("any"), or the
                first k. The others are cancelled.

        Raises:
            ValueError: if `width`, `name` or `join` is outside its limits.
        """
        from .fork_block import ForkBlock

        return ForkBlock(self.here(), self.fork_ids.next(), width, name, join)

    @overload
    def best_of(  # type: ignore[overload-overlap]  # whatever else is returned is a result
        self,
        count: int,
        attempt: Callable[[int], Awaitable[T]],
        *,
        score: Callable[[T], float | Awaitable[float]],
        name: str | None = None,
        limit: int | None = None,
    ) -> Awaitable[Best[T]]: ...

    @overload
    def best_of(
        self,
        count: int,
        attempt: Callable[[int], T],
        *,
        score: Callable[[T], float],
        name: str | None = None,
        limit: int | None = None,
    ) -> Best[T]: ...

    def best_of(
        self,
        count: int,
        attempt: Callable[[int], Any],
        *,
        score: Callable[[Any], Any],
        name: str | None = None,
        limit: int | None = None,
    ) -> Any:
        """Makes several attempts from the present context, each a branch of a fork, and keeps the best.

            best = await run.best_of(5, attempt, score=judge)

        Attempts and their scoring run side by side: as tasks, which is awaited, if `attempt` is a coroutine
        function, and otherwise in threads. Attempts that fail do not count.

        Args:
            attempt: called with 0 to `count` - 1.
            score: what a result is worth: the highest is kept, the first of equals. Its own model calls are
                labelled with kind "evaluate". Beside coroutine functions it may be one too.
            limit: how many attempts are made at once.

        Raises:
            ValueError: if `count` or `name` is outside the contract's limits.
            Exception: what an attempt or its scoring raised, if all failed; an ExceptionGroup of several.
        """
        from .best_of import best_in_tasks, best_in_threads, is_async

        if is_async(attempt):
            return best_in_tasks(self, count, attempt, score, name, limit)
        return best_in_threads(self, count, attempt, score, name, limit)

    def loop(self, name: str | None = None, *, limit: int | None = None) -> Loop:
        """Declares steps that repeat. Iterate over it; steps made meanwhile say which turn they belong to.

            for turn in run.loop("react", limit=12):

        It yields numbers from 0 to `limit` - 1. Leaving the `for` statement in any way ends the loop.

        Args:
            limit: most iterations; without one it goes on until it is left.

        Raises:
            ValueError: if `limit` is outside the contract's.
        """
        prefix = "" if name is None else f"{slug(name)}-"
        return Loop(self.here, lambda: prefix + self._loop_ids.next(), limit)

    @contextmanager
    def label(
        self,
        *,
        kind: str | None = None,
        agent: str | None = None,
        forecast: Forecast | None = None,
        after: str | Branch | Iterable[str | Branch | None] = (),
    ) -> Iterator[None]:
        """Labels the steps made inside the block: what they are for, which agent makes them, what follows.

        with run.label(kind="plan", forecast=Forecast(next="fork", fan_out=8)):
            plan = await client.chat.completions.create(...)

        Args:
            after: what the first step inside waited for beside its own branch: ids of steps or forks, as
                `last_step` gives them, or branches.

        Raises:
            ValueError: if `kind`, `agent` or something in `after` is outside the contract's limits.
        """
        for name in (kind, agent):
            if name is not None:
                _NAME.validate_python(name)
        branch = self.here()
        awaited = _ids(after)
        outer = next(open_frames(), None)
        inherited = outer.after if outer is not None and outer.branch is branch else ()
        branch.await_also(awaited)
        try:
            with frame(Frame(branch, kind, agent, forecast, (*inherited, *awaited))):
                yield
        finally:
            branch.await_no_more(awaited)

    def hand_over(self, name: str | None = None) -> HandOverBlock:
        """Hands the program over to another process or service while the block runs.

            with run.hand_over() as handed:
                subprocess.run(command, env={**os.environ, **handed.environment})

        It is a fork of one branch that runs elsewhere, where `continue_program` takes it up. Leaving the
        block is the join: what follows depends on what was done there.
        """
        return _hand_over_block()(self.here(), self._handover_ids.next(), name)

    def report(self, *, prices: Prices | None = None) -> Report:
        """Tells what the program did so far and what to change: `print` it, or see its `to_html`.

        Args:
            prices: what tokens cost; by default what the variables `LLMD_AGENTS_PRICE_INPUT` and
                `LLMD_AGENTS_PRICE_CACHED` say.

        Raises:
            BadPrice: (a ValueError) if these cannot be read.
        """
        from .report import report_of

        return report_of(self.history, prices=prices, events_dropped=self.outbox.dropped)

    def __enter__(self) -> Self:
        if self._entry is not None:
            raise RuntimeError(f"program {self.id} is running already; each run is one block")
        self._entry = enter_frame(Frame(self.root))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(kind)
        with quiet.faults("the last events are not waited for"):
            self.outbox.flush(FLUSH_SECONDS)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(kind)
        with quiet.faults("the last events are not waited for"):
            await self.outbox.flush_async(FLUSH_SECONDS)

    def _leave(self, kind: type[BaseException] | None) -> None:
        entry, self._entry = self._entry, None
        self.finish(outcome_of(kind))
        if entry is not None:
            leave_frame(entry)
        leave_all(lambda inside: inside.branch.run is self)


@cache
def _hand_over_block() -> type[HandOverBlock]:
    """Loaded when first used, and once: an import takes longer than the rest of a hand-over's beginning."""
    from .handover import HandOverBlock

    return HandOverBlock


def _continued(run: Run, step: Step, own: str) -> Branch:
    """Returns the branch of a program that was handed over: its own, unless a mere step was passed on."""
    if step.id == step.branch:
        at = step.fork
        fork = None if at is None else (at.id, at.index, at.width)
        return Branch(run, step.branch, parents=step.parents, fork=fork)
    return Branch(run, f"{own}{ROOT_BRANCH}", parents=(step.id,))


def _ids(after: str | Branch | Iterable[str | Branch | None]) -> tuple[str, ...]:
    found: list[str] = []
    for one in (after,) if isinstance(after, str | Branch) else after:
        if isinstance(one, Branch):
            found += one.frontier
        elif one is not None:
            found.append(_ID.validate_python(one))
    return tuple(dict.fromkeys(found))
