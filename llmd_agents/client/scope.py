"""Scopes: what an adapter sees of a framework's run, and the program's graph that follows from it.

A scope is a stretch of such a run: a chain, a node of a graph, an agent, a workflow's step, a model call. An
adapter opens one inside another as the framework runs them, and each goes on from what ended before it began:

- `open`: scopes of one *phase* run side by side. Each begins where the phase began, and what comes after the
  phase waits for all of them. Where the framework says which phase a scope is of (a superstep, branches of
  a map), the adapter passes it on; else scopes that overlap are of one phase, others follow each other.
- `follow`: a scope goes on from the scopes that are named, as where events start the steps of a workflow.
- `fan_out`: a fork is declared before its scopes begin, where the framework tells how many there will be.

What the developer declares beats what is inferred: within a fork, branch or program of their own, steps are
where that says, and labels of their own stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from llmd_agents.hints.limits import FAN_OUT_MAX

from .branch import Branch
from .fan_out import FanOut
from .frame import Frame, current_frame, enter_frame, leave_frame
from .guard import guard
from .label import label_of
from .outcome import outcome_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from types import TracebackType

    from llmd_agents.hints import Forecast, Outcome

    from .frame import Entry


class Scope:
    """One stretch of a framework's run. Made by `begin_scope`, `open` and `follow`.

    Attributes:
        run: the program.
        ended: whether it is over.

    Args:
        branch: the one that its steps are on.
        outer: the scope that it was opened in.
        owns: whether the branch ends with it.
    """

    __slots__ = (
        "__weakref__",
        "_agent",
        "_branch",
        "_counts",
        "_entry",
        "_exit",
        "_exits",
        "_fan_outs",
        "_followed",
        "_kind",
        "_loose",
        "_of",
        "_open",
        "_outer",
        "_owns",
        "_phase",
        "_phase_entry",
        "_shared",
        "ended",
        "ends_program",
        "run",
    )

    def __init__(
        self,
        branch: Branch,
        outer: Scope | None = None,
        *,
        kind: str | None = None,
        agent: str | None = None,
        owns: bool = False,
        of: FanOut | None = None,
    ) -> None:
        self.run = branch.run
        self.ended = False
        self.ends_program = False
        self._branch = branch
        self._outer = outer
        self._kind: str | None = label_of(kind) or (outer._kind if outer is not None else None)
        self._agent: str | None = label_of(agent) or (outer._agent if outer is not None else None)
        self._owns = owns
        self._of = of
        self._entry: Entry | None = None
        self._exit: tuple[str, ...] | None = None
        # Of what is opened within: the phase, where it began, and what has ended in it.
        self._phase: Hashable = None
        self._phase_entry = branch.frontier
        self._shared = False
        self._open = 0
        self._exits: list[tuple[str, ...]] = []
        self._fan_outs: list[FanOut] = []
        # Of a scope among those that follow each other.
        self._counts = False
        self._followed = False
        self._loose: dict[Branch, FanOut | None] = {}

    @property
    def frontier(self) -> tuple[str, ...]:
        """Ids of the steps and forks that a step would depend on that came next."""
        return self._branch.frontier if self._exit is None else self._exit

    @property
    def busy(self) -> bool:
        """Whether scopes that were opened in this one are not over."""
        return self._open > 0

    def open(
        self,
        *,
        kind: str | None = None,
        agent: str | None = None,
        phase: Hashable = None,
        of: FanOut | None = None,
    ) -> Scope:
        """Opens a scope within this one.

        Args:
            kind: of its steps (plan, act, evaluate, …); that of this one by default.
            agent: that makes its steps; that of this one by default.
            phase: scopes of the same phase run side by side; without one those do that overlap.
            of: the fan-out that it belongs to.
        """
        if (declared := self._declared(current_frame())) is not None:
            return Scope(declared, self, kind=kind, agent=agent)
        over: list[FanOut] = []
        with guard:
            if phase is None:
                phase = of or (self._phase if self._open else object())
            if phase != self._phase:
                over = self._end_phase()
                self._phase, self._phase_entry, self._shared = phase, self._branch.frontier, False
            if of is not None and of not in self._fan_outs:
                self._fan_outs.append(of)
            self._open += 1
            # The first to begin goes on with the branch itself, so that what is sequential is one branch.
            shares = of is None and not self._shared
            self._shared = True
            entry = self._phase_entry
        for fan_out in over:
            fan_out.tell_joined()
        branch = of.begin() if of is not None else None
        if branch is None:
            of, branch = None, self._branch if shares else self._new_branch(entry)
        scope = Scope(branch, self, kind=kind, agent=agent, owns=not shares, of=of)
        scope._counts = True
        return scope

    def begin_call(self, agent: str | None = None) -> bool:
        """Begins a model call within this scope, as `open` and `enter` would, for less. `end_call` ends it.

        Args:
            agent: that makes it; that of this scope by default.

        Returns:
            whether it has; if not, as where it runs beside others, it takes a scope of its own.
        """
        inside = current_frame()
        if inside is None or inside.scope is not self or label_of(agent) not in (None, self._agent):
            return False
        with guard:
            if self._open:
                return False
            over = self._end_phase()
            self._phase, self._phase_entry, self._shared = object(), self._branch.frontier, True
            self._open = 1
        for fan_out in over:
            fan_out.tell_joined()
        return True

    def end_call(self) -> None:
        """Ends what `begin_call` has begun."""
        with guard:
            over = self._one_ended()
        for fan_out in over:
            fan_out.tell_joined()

    def follow(
        self,
        *after: Scope,
        kind: str | None = None,
        agent: str | None = None,
        of: FanOut | None = None,
    ) -> Scope:
        """Opens a scope within this one that goes on from others within it; from its own beginning if none.

        A fork whose branches are all among those others is joined.

        Args:
            kind: as for `open`.
            agent: as for `open`.
            of: the fan-out that it belongs to, in place of what it follows.
        """
        if (declared := self._declared(current_frame())) is not None:
            return Scope(declared, self, kind=kind, agent=agent)
        branch = of.begin() if of is not None else None
        if branch is None:
            of, branch = self._branch_after([one for one in after if one.run is self.run])
        with guard:
            self._loose[branch] = of
        return Scope(branch, self, kind=kind, agent=agent, of=of)

    def fan_out(self, width: int, name: str | None = None) -> FanOut | None:
        """Declares that so many scopes are about to begin from where this one is, side by side.

        Returns:
            what they are opened `of`; None where nothing is declared: for fewer than two or more than the
            contract has a number for, and within what the developer has declared.
        """
        fan_out = self.expect_fan_out(width, name)
        if fan_out is not None:
            fan_out.declare()
        return fan_out

    def expect_fan_out(self, width: int, name: str | None = None) -> FanOut | None:
        """As `fan_out`, for scopes that may all do without model calls.

        Returns:
            the fan-out; nobody is told of it until its `declare` is called, or a scope of it with steps ends.
        """
        if not 2 <= width <= FAN_OUT_MAX or self._declared(current_frame()) is not None:
            return None
        return FanOut(self._branch, width, label_of(name))

    def enter(self, forecast: Forecast | None = None) -> None:
        """Makes the scope that of the code that this context runs from here on, until `leave` or `end`.

        Args:
            forecast: what the application expects after the scope's next step.
        """
        inside = current_frame()
        if self._declared(inside) is not None:
            return
        declared = inside.declared if inside is not None and inside.scope is not None else inside
        if declared is None or declared.branch.run is not self.run:
            frame = Frame(self._branch, self._kind, self._agent, forecast, (), self)
        else:
            frame = Frame(
                self._branch,
                declared.kind or self._kind,
                declared.agent or self._agent,
                declared.forecast or forecast,
                declared.after,
                self,
                declared,
            )
        self._entry = enter_frame(frame)

    def leave(self) -> None:
        """Makes the code that this context runs from here on that of the scope around it again."""
        entry, self._entry = self._entry, None
        if entry is not None:
            leave_frame(entry)

    def end(self, outcome: Outcome = "ok", *, last: Scope | None = None) -> None:
        """Ends the scope: what the outer one opens next follows it. To end it again does nothing.

        Args:
            last: of the scopes within it that follow each other, the one that it ends with.
        """
        with guard:
            if self.ended:
                return
            self.ended = True
            over = self._end_phase()
            if last is not None and last.run is self.run and last._branch is not self._branch:
                self._branch.go_on_from(last.frontier)
            self._exit = self._branch.frontier
            loose, self._loose = self._loose, {}
        self.leave()
        for branch, of in loose.items():
            if branch is not self._branch:
                _end_branch(branch, of, outcome)
            if of is not None and of not in over and not of.joined:
                of.join()
                over.append(of)
        for fan_out in over:
            fan_out.tell_joined()
        if self._counts and self._outer is not None:
            self._outer._child_ended(self, outcome)
        if self.ends_program:
            self.run.finish(outcome)

    def _child_ended(self, child: Scope, outcome: Outcome) -> None:
        if child._owns:
            _end_branch(child._branch, child._of, outcome)
        with guard:
            if child._owns and child._of is None:
                self._exits.append(child._branch.frontier)
            over = self._one_ended()
        for fan_out in over:
            fan_out.tell_joined()

    def _one_ended(self) -> list[FanOut]:
        """Counts one less that is open; returns the forks whose join is to be told."""
        self._open -= 1
        if self._open:
            return []
        # Not the phase's end yet: others of it may follow, where they take turns.
        self._converge()
        over = [fan_out for fan_out in self._fan_outs if fan_out.complete]
        for fan_out in over:
            fan_out.join()
            self._fan_outs.remove(fan_out)
        return over

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(outcome_of(kind))

    def _end_phase(self) -> list[FanOut]:
        """Lets what follows wait for all of the phase; returns the forks whose join is to be told."""
        if self._phase is None:
            return []
        self._phase = None
        self._converge()
        over, self._fan_outs = self._fan_outs, []
        for fan_out in over:
            fan_out.join()
        return over

    def _converge(self) -> None:
        if self._exits:
            self._branch.converge(self._exits, self._phase_entry)
            self._exits = []

    def _declared(self, inside: Frame | None) -> Branch | None:
        """Returns the branch that the developer has put the calling code on, if it is none of the scope's.

        Args:
            inside: the frame that the code is in.
        """
        if inside is None or inside.scope is not None:
            return None
        scope: Scope | None = self
        while scope is not None:
            if scope._branch is inside.branch:
                return None
            scope = scope._outer
        return inside.branch

    def _new_branch(self, parents: Iterable[str]) -> Branch:
        return Branch(self.run, self.run.branch_ids.next(), parents=parents, parent=self._branch)

    def _branch_after(self, scopes: list[Scope]) -> tuple[FanOut | None, Branch]:
        """Returns the branch of a scope that follows others, and the fan-out that this is a branch of."""
        with guard:
            if not scopes:
                first, self._followed = not self._followed, True
                return None, self._branch if first else self._new_branch(self._phase_entry)
            goes_on = len(scopes) == 1 and scopes[0].ended and not scopes[0]._followed
            for scope in scopes:
                scope._followed = True
            if goes_on:
                return scopes[0]._of, scopes[0]._branch
            joined = _complete(scopes)
            for fan_out in joined:
                fan_out.join()
            frontiers = [one for scope in scopes if scope._of not in joined for one in scope.frontier]
            frontiers += [fan_out.id for fan_out in joined]
        for scope in scopes:
            if scope._of in joined:
                _end_branch(scope._branch, scope._of, "ok")
        for fan_out in joined:
            fan_out.tell_joined()
        for fan_out in joined:
            if fan_out.parent.frontier == tuple(frontiers):
                return self._loose.get(fan_out.parent), fan_out.parent
        return None, self._new_branch(dict.fromkeys(frontiers))


def _complete(scopes: list[Scope]) -> list[FanOut]:
    """Returns the forks all of whose branches are among those of the scopes."""
    branches: dict[FanOut, set[Branch]] = {}
    for scope in scopes:
        if scope._of is not None and not scope._of.joined:
            branches.setdefault(scope._of, set()).add(scope._branch)
    return [fan_out for fan_out, found in branches.items() if len(found) == fan_out.width]


def _end_branch(branch: Branch, of: FanOut | None, outcome: Outcome) -> None:
    if of is not None:
        of.end(branch, outcome)
    elif branch.begun:
        branch.end(outcome)
