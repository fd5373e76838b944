"""A program as the application runs it: `with program("essay-grading") as run: …`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Self

from llmd_agents.hints import (
    DEFAULT_PRIORITY,
    ROOT_BRANCH,
    LoopPosition,
    Program,
    ProgramFinished,
    ProgramStarted,
)

from .branch import Branch
from .clock import event_time
from .fork import ForkBlock
from .frame import Frame, current_frame, enter_frame, frame, leave_frame
from .history import History
from .ids import Counter, program_id, slug
from .observer import tell
from .outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextvars import Token
    from types import TracebackType

    from llmd_agents.hints import Forecast

FLUSH_SECONDS = 0.5
"""How long the end of a program waits, at most, for its last events to leave."""


class Run:
    """One run of a program. Made by `program`, entered with `with` or `async with`.

    Model calls made inside the block, by clients that `instrument` has prepared, become its steps.
    """

    def __init__(self, declared: Program) -> None:
        self.declared = declared
        self.outbox = Outbox()
        self.history = History(declared.id, declared.name)
        self.root = Branch(self, ROOT_BRANCH)
        self.step_ids = Counter("s")
        self.call_ids = Counter("t")
        self._fork_ids = Counter("f")
        self._loop_ids = Counter("l")
        self._token: Token[Frame | None] | None = None

    @property
    def id(self) -> str:
        return self.declared.id

    def start(self) -> None:
        self.history = History(self.id, self.declared.name)
        self.outbox.put(ProgramStarted(program=self.id, at=event_time(), declared=self.declared))
        tell(lambda observer: observer.program_started(self.history))

    def finish(self, outcome: Literal["ok", "error", "cancelled", "abandoned"] = "ok") -> None:
        self.outbox.put(ProgramFinished(program=self.id, at=event_time(), outcome=outcome))
        history = self.history
        history.ended, history.outcome = history.now(), outcome
        tell(lambda observer: observer.program_ended(history))

    def here(self) -> Branch:
        """Returns the branch that the calling code runs on: the root branch outside of forks."""
        inside = current_frame()
        return inside.branch if inside is not None and inside.branch.run is self else self.root

    def fork(self, width: int, *, name: str | None = None) -> ForkBlock:
        """Declares that `width` branches are about to start from the present context.

            async with run.fork(8, name="grade") as fork:
                grades = await fork.map(grade_one, essays)

        Leaving the block is the join. With a plain `with`, `map` runs the branches in threads.

        Raises:
            ValidationError: (a ValueError) if `width` or `name` is outside the contract's limits.
        """
        return ForkBlock(self.here(), self._fork_ids.next(), width, name)

    def loop(self, name: str | None = None, *, limit: int) -> Iterator[int]:
        """Yields iteration numbers from 0 to `limit` - 1; steps made meanwhile say which turn they belong to.

        Breaking out ends the loop early.
        """
        branch = self.here()
        loop_id = self._loop_ids.next()
        if name is not None:
            loop_id = f"{slug(name)}-{loop_id}"
        for iteration in range(limit):
            position = LoopPosition(id=loop_id, iteration=iteration, limit=limit)
            branch.loops.append(position)
            try:
                yield iteration
            finally:
                branch.loops.remove(position)

    @contextmanager
    def label(
        self, *, kind: str | None = None, agent: str | None = None, forecast: Forecast | None = None
    ) -> Iterator[None]:
        """Labels the steps made inside the block: what they are for, which agent makes them, what follows.

        with run.label(kind="plan", forecast=Forecast(next="fork", fan_out=8)):
            plan = await client.chat.completions.create(...)
        """
        with frame(Frame(self.here(), kind=kind, agent=agent, forecast=forecast)):
            yield

    def __enter__(self) -> Self:
        self._token = enter_frame(Frame(self.root))
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(kind)
        self.outbox.flush(FLUSH_SECONDS)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(kind)
        await self.outbox.flush_async(FLUSH_SECONDS)

    def _leave(self, kind: type[BaseException] | None) -> None:
        if self._token is not None:
            leave_frame(self._token)
        if kind is None:
            self.finish("ok")
        else:
            self.finish("error" if issubclass(kind, Exception) else "cancelled")


def program(
    name: str,
    *,
    priority: int = DEFAULT_PRIORITY,
    deadline: float | None = None,
    id: str | None = None,  # noqa: A002  (the contract's own word)
) -> Run:
    """Declares one run of a workflow.

    Args:
        name: the workflow, the same for every run of it.
        priority: 0–100, higher matters more.
        deadline: Unix time by which the result is wanted.
        id: resumes a run under its earlier id; a new one is made by default.

    Raises:
        ValidationError: (a ValueError) naming the field that is outside the contract's limits.
    """
    return Run(Program(id=id or program_id(name), name=name, priority=priority, deadline=deadline))
