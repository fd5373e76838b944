"""A branch: one linear chain of context, and where it stands in the program's graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from llmd_agents.hints import BranchEnded, ForkPosition, LoopPosition, Outcome
from llmd_agents.hints.frontier import advance

from . import quiet
from .clock import event_time
from .guard import guard
from .history import BranchRecord
from .live_lint import forget
from .loop import loop_positions
from .observer import tell
from .open_call import OpenCall
from .trail import Trail

if TYPE_CHECKING:
    from .asked import AskedTools
    from .declared_tools import DeclaredTool
    from .join import Join
    from .run import Run
    from .scope import Scope


class Branch:
    """The state that consecutive steps of a branch share.

    `frontier` holds the ids that the next step depends on. A step that is answered takes the place of its
    parents there, and so does a fork when it is joined. Calls in sequence thus form a chain, calls that
    overlap become siblings, and whatever follows them depends on all of them.

    Attributes:
        parent: the branch that it was forked from.
        outcome: what has become of it; None while it goes on.
        scope: what surrounds the scopes that adapters begin on it, if any has.

    Args:
        fork: the fork that it is a branch of, its index in that, and how many branches that has.
    """

    def __init__(
        self,
        run: Run,
        branch_id: str,
        *,
        parents: Iterable[str] = (),
        fork: tuple[str, int, int] | None = None,
        parent: Branch | None = None,
    ) -> None:
        self.run = run
        self.id = branch_id
        self._fork = fork
        self.parent = parent
        self.outcome: Outcome | None = None
        self._trail: Trail | None = None
        self._asked: AskedTools | None = None
        self._frontier = tuple(parents)
        self._beside: frozenset[str] = frozenset()
        self._joins: Mapping[str, Join] = parent._joins if parent is not None else {}
        self._awaited: tuple[str, ...] = ()
        self._end_told_at: tuple[str, ...] | None = None
        self._record: BranchRecord | None = None
        self.scope: Scope | None = None

    # A fork may have 100,000 branches, of which few may do anything: what only some need is made when needed.

    @property
    def fork(self) -> ForkPosition | None:
        if self._fork is None:
            return None
        fork, index, width = self._fork
        return ForkPosition(id=fork, index=index, width=width)

    def child(self, fork: str, index: int, width: int, parents: Iterable[str]) -> Branch:
        """Returns one of the branches of a fork of this one."""
        return Branch(self.run, f"{fork}.{index}", parents=parents, fork=(fork, index, width), parent=self)

    @property
    def trail(self) -> Trail:
        if self._trail is None:
            with guard:
                self._trail = self._trail or Trail()
        return self._trail

    @property
    def asked(self) -> AskedTools:
        if self._asked is None:
            from .asked import AskedTools

            with guard:
                self._asked = self._asked or AskedTools(self)
        return self._asked

    def begin_call(self, tool: DeclaredTool, call_id: str | None) -> OpenCall:
        """Returns the call that a tool now runs: one that an answer asked for, if it did, or a new one.

        Args:
            call_id: which one, where the caller knows; otherwise the oldest of the tool.
        """
        asking: Branch | None = self
        while asking is not None:
            if asking._asked is not None and (call := asking._asked.adopt(tool.name, call_id)) is not None:
                return call
            asking = asking.parent
        return OpenCall.begin(self, self.run.call_ids.next(), tool)

    @property
    def frontier(self) -> tuple[str, ...]:
        return self._frontier

    def advance(self, done: str, parents: Iterable[str]) -> None:
        """Puts a finished step or fork in the place of what it depended on."""
        parents = tuple(parents)
        with guard:
            self._frontier = advance(self._frontier, done, parents)
            if self._joins:
                self._joins = {fork: how for fork, how in self._joins.items() if fork in self._frontier}
            if self._awaited:
                self._awaited = tuple(one for one in self._awaited if one not in parents)

    def converge(self, frontiers: Iterable[Iterable[str]], since: Iterable[str]) -> None:
        """Lets what follows wait for branches that ran beside this one, as well as for its own steps.

        Args:
            frontiers: how far each of them came.
            since: the frontier that they, and this branch, started from.
        """
        started = tuple(since)
        with guard:
            moved = [frontier for frontier in (self._frontier, *frontiers) if tuple(frontier) != started]
            if moved:
                self.go_on_from(dict.fromkeys(one for frontier in moved for one in frontier))

    def go_on_from(self, frontier: Iterable[str]) -> None:
        """Lets what follows wait for what ran beside this branch, in place of its own latest steps."""
        with guard:
            own, self._frontier = self._frontier, tuple(frontier)
            self._beside |= frozenset(self._frontier) - frozenset(own)
            self._beside &= frozenset(self._frontier)

    @property
    def beside(self) -> list[str]:
        """What of the frontier is no step or fork of this branch, but of branches that ran beside it."""
        return [one for one in self._frontier if one in self._beside]

    def join(self, fork: str, parents: Iterable[str], how: Join, beside: Iterable[str] = ()) -> None:
        """Puts a fork that was joined in the place of what it started from.

        Args:
            beside: what its branches waited for at their ends that ran beside them.
        """
        self.advance(fork, parents)
        with guard:
            self._frontier = tuple(dict.fromkeys((*self._frontier, *beside)))
            self._beside = (self._beside | frozenset(beside)) & frozenset(self._frontier)
            self._joins = {**self._joins, fork: how}

    @property
    def next_join(self) -> Join | None:
        """How the forks were joined that the next step depends on; None if there are none, or they differ."""
        if not self._joins:
            return None
        modes = set(self._joins.values())
        return modes.pop() if len(modes) == 1 else None

    @property
    def loops(self) -> list[LoopPosition]:
        """Where the calling code is in the branch's loops, the innermost last."""
        return loop_positions(self)

    def await_also(self, steps: Iterable[str]) -> None:
        """Takes note of steps of other branches that were waited for, until a step depends on them."""
        with guard:
            self._awaited = tuple(dict.fromkeys((*self._awaited, *steps)))

    def awaited(self, steps: Iterable[str]) -> list[str]:
        """Returns those of the steps that were waited for on which no step depends yet."""
        return [one for one in steps if one in self._awaited and one not in self._frontier]

    def await_no_more(self, steps: Iterable[str]) -> None:
        over = frozenset(steps)
        with guard:
            self._awaited = tuple(one for one in self._awaited if one not in over)

    @property
    def begun(self) -> bool:
        """Whether a step was made on it."""
        return self._trail is not None

    @property
    def over(self) -> bool:
        """Whether it has ended, or its program has."""
        return self.outcome is not None or self.run.finished

    def is_of(self, fork: str, run: Run) -> bool:
        """Returns whether it is a branch of a fork, or was forked from one of those."""
        branch: Branch | None = self
        while branch is not None and branch.run is run:
            if branch._fork is not None and branch._fork[0] == fork:
                return True
            branch = branch.parent
        return False

    def begin(self) -> None:
        """Tells that the branch begins, from within the code that runs it."""
        with quiet.faults("a branch's beginning is not noted"):
            history = self.run.history
            fork, index, _ = self._fork or (None, 0, 0)
            self._record = record = BranchRecord(
                branch=self.id,
                fork=fork,
                index=index,
                parents=self._frontier,
                started=history.now(),
            )
            history.keep(history.branches, record)
            tell(lambda observer: observer.branch_started(history, record))

    def end(self, outcome: Outcome) -> None:
        """Tells that the branch has ended. What counts is the first outcome; it is told again if a step was
        answered since, for then its context is dead anew."""
        with guard:
            first = self.outcome is None
            if not first and self._end_told_at is self._frontier:
                return
            self.outcome = self.outcome or outcome
            self._end_told_at = self._frontier
            told = self.outcome
        run = self.run
        run.announce(partial(BranchEnded, program=run.id, at=event_time(), branch=self.id, outcome=told))
        with quiet.faults("a branch's end is not noted"):
            self.settle("abandoned" if told == "ok" else told)
            if first and (record := self._record) is not None:
                history = run.history
                record.ended, record.outcome = history.now(), told
                tell(lambda observer: observer.branch_ended(history, record))

    def abandon(self) -> None:
        """Gives the branch up: what it has said will not be used, and its context may be released now.

        Raises:
            RuntimeError: if it is the branch that its program started with.
        """
        if self is self.run.root:
            raise RuntimeError("a program's own branch cannot be abandoned, only those of its forks")
        self.end("abandoned")

    def settle(self, outcome: Outcome) -> None:
        """Ends the steps and calls of tools that are not over: the branch has ended."""
        if self._trail is not None:
            self._trail.settle(outcome)
            forget(self)
        if self._asked is not None:
            self._asked.close(outcome)
