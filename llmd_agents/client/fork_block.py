"""The block of a fork: entering it declares the fork, leaving it is the join."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmd_agents.hints import BranchEnded, ForkDeclared, Joined
from llmd_agents.hints.limits import PARENTS_MAX

from . import quiet
from .async_fork import AsyncFork
from .clock import event_time
from .frame import leave_all
from .history import ForkRecord
from .join import check_join
from .observer import tell
from .sync_fork import SyncFork

if TYPE_CHECKING:
    from types import TracebackType

    from .branch import Branch
    from .fork import Fork
    from .join import Join


class ForkBlock:
    """What `run.fork` returns: enter it with `with` for threads, with `async with` for tasks.

    Attributes:
        declared: the event that declares the fork.

    Args:
        parents: what its branches depend on: by default the same as what comes next on the branch.
    """

    def __init__(
        self,
        parent: Branch,
        fork_id: str,
        width: int,
        name: str | None,
        join: Join,
        *,
        parents: tuple[str, ...] | None = None,
    ) -> None:
        # Building the event checks width and name before anything has begun.
        self.declared = ForkDeclared(
            program=parent.run.id,
            at=event_time(),
            branch=parent.id,
            fork=fork_id,
            width=width,
            name=name,
            parents=parent.frontier[-PARENTS_MAX:] if parents is None else parents,
            position=parent.fork,
        )
        check_join(join, width)
        self._parent = parent
        self._join: Join = join
        self._fork: Fork | None = None
        self._record: ForkRecord | None = None

    def __enter__(self) -> SyncFork:
        self._check_new()
        self._fork = fork = SyncFork(self._parent, self.declared, self._join)
        self.tell_declared()
        return fork

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(failed=kind is not None)

    async def __aenter__(self) -> AsyncFork:
        self._check_new()
        self._fork = fork = AsyncFork(self._parent, self.declared, self._join)
        self.tell_declared()
        return fork

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(failed=kind is not None)

    def _check_new(self) -> None:
        if self._fork is not None:
            raise RuntimeError(f"fork {self.declared.fork} was entered already; each fork is one block")

    def tell_declared(self) -> None:
        """Tells the servers and observers of the fork."""
        declared, run = self.declared, self._parent.run
        run.announce(lambda: declared)
        with quiet.faults("a fork is not noted"):
            history = run.history
            self._record = record = ForkRecord(
                fork=declared.fork,
                name=declared.name,
                branch=declared.branch,
                width=declared.width,
                parents=declared.parents,
                started=history.now(),
                join=self._join,
            )
            history.keep(history.forks, record)
            tell(lambda observer: observer.fork_declared(history, record))

    def _leave(self, *, failed: bool) -> None:
        declared, run = self.declared, self._parent.run
        if self._fork is not None:
            self._fork.close(failed=failed)
        leave_all(lambda inside: inside.branch.is_of(declared.fork, run))
        self.join()

    def join(self) -> None:
        """Lets what follows on the branch wait for the fork."""
        self._parent.join(self.declared.fork, self.declared.parents, self._join)
        self.tell_joined()

    def tell_joined(self) -> None:
        """Tells the servers and observers that what follows waits for the fork."""
        declared, run = self.declared, self._parent.run
        run.announce(
            partial(Joined, program=run.id, at=event_time(), branch=declared.branch, fork=declared.fork)
        )
        with quiet.faults("a join is not noted"):
            if (record := self._record) is not None:
                history = run.history
                record.ended = history.now()
                tell(lambda observer: observer.fork_joined(history, record))

    def tell_withdrawn(self) -> None:
        """Tells the servers that nothing comes of the fork: its branches are given up, none is waited for."""
        declared, run = self.declared, self._parent.run
        for index in range(declared.width):
            run.announce(
                partial(
                    BranchEnded,
                    program=run.id,
                    at=event_time(),
                    branch=f"{declared.fork}.{index}",
                    outcome="abandoned",
                )
            )
        with quiet.faults("a fork's being withdrawn is not noted"):
            if (record := self._record) is not None:
                record.ended, record.withdrawn = run.history.now(), True
