"""A program's steps and tools, and what each of them waited for."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from ..history import StepRecord, ToolRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..history import BranchRecord, ForkRecord, History

Activity: TypeAlias = StepRecord | ToolRecord

SLOT_SECONDS = 0.05
"""A branch that begins so soon after the end of a sibling waited for its place."""

_SAME_TIME = 1e-6


class Graph:
    """A history as it is now; what still runs counts as ending now."""

    def __init__(self, history: History) -> None:
        self.now = history.now() if history.ended is None else history.ended
        self.steps: list[StepRecord] = list(history.steps)
        self.tools: list[ToolRecord] = list(history.tools)
        self.forks: dict[str, ForkRecord] = {
            fork.fork: fork for fork in list(history.forks) if not fork.withdrawn
        }
        self.branches: dict[str, BranchRecord] = {one.branch: one for one in list(history.branches)}
        self.step = {step.step: step for step in self.steps}
        self.forks_on: defaultdict[str, list[str]] = defaultdict(list)
        for fork in self.forks.values():
            self.forks_on[fork.branch].append(fork.fork)
        self.branches_of: defaultdict[str, list[str]] = defaultdict(list)
        for branch in self.branches.values():
            if branch.fork is not None:
                self.branches_of[branch.fork].append(branch.branch)
        on: defaultdict[str, list[Activity]] = defaultdict(list)
        both: list[Activity] = [*self.steps, *self.tools]
        for activity in both:
            on[activity.branch].append(activity)
        self.on = {branch: sorted(found, key=self.ended) for branch, found in on.items()}
        self._all = {branch: _ByEnd(self, found) for branch, found in self.on.items()}
        self._tools = {
            branch: _ByEnd(self, [one for one in found if isinstance(one, ToolRecord)])
            for branch, found in self.on.items()
        }
        self._fork_ends = {
            branch: sorted((self.ended(self.forks[one]), one) for one in found)
            for branch, found in self.forks_on.items()
        }
        self._branch_ends = {
            fork: sorted((self.ended(self.branches[one]), one) for one in found)
            for fork, found in self.branches_of.items()
        }
        self._parents_on: defaultdict[str, set[str]] = defaultdict(set)
        for step in self.steps:
            self._parents_on[step.branch].update(step.parents)
        for fork in self.forks.values():
            self._parents_on[fork.branch].update(fork.parents)

    def ended(self, record: Activity | ForkRecord | BranchRecord) -> float:
        return max(self.now if record.ended is None else record.ended, record.started)

    def last_steps(self, fork: str) -> tuple[str, ...]:
        """Returns the steps that a fork's id stands for as a parent: the last ones of its branches."""
        found: dict[str, None] = {}
        waiting, seen = [fork], {fork}
        while waiting:
            name = waiting.pop()
            ends = [one for branch in self.branches_of[name] for one in self._ends_on(branch)]
            for one in ends or self.forks[name].parents:
                if one in self.forks and one not in seen:
                    seen.add(one)
                    waiting.append(one)
                elif one in self.step:
                    found[one] = None
        return tuple(found)

    def _ends_on(self, branch: str) -> list[str]:
        """Returns the steps and forks of a branch that none of its own waited for."""
        names = [one.step for one in self.on.get(branch, ()) if isinstance(one, StepRecord)]
        return [name for name in (*names, *self.forks_on[branch]) if name not in self._parents_on[branch]]

    def before(self, activity: Activity) -> Activity | None:
        """Returns what an activity waited for longest, of all that it depends on."""
        found: list[Activity] = []
        if isinstance(activity, StepRecord):
            for name in activity.parents:
                found += self._ends_of(name, activity.started)
            found += _latest(self._tools, activity.branch, activity.started)
        else:
            asked_by = self.step.get(activity.asked_by or "")
            if asked_by is not None and self.ended(asked_by) <= activity.started + _SAME_TIME:
                found.append(asked_by)
            found += _latest(self._all, activity.branch, activity.started)
            ends = self._fork_ends.get(activity.branch, [])
            index = bisect_right(ends, (activity.started + _SAME_TIME, "\U0010ffff")) - 1
            if index >= 0:
                found += self._ends_of(ends[index][1], activity.started)
            branch = self.branches.get(activity.branch)
            for name in branch.parents if branch is not None and not found else ():
                found += self._ends_of(name, activity.started)
        found += self._slot(activity)
        return self._last(one for one in found if one is not activity)

    def _slot(self, activity: Activity) -> list[Activity]:
        """Returns what ended the sibling in whose place an activity's branch began, under a fork's limit."""
        branch = self.branches.get(activity.branch)
        if branch is None or branch.fork is None or self.on[branch.branch][0] is not activity:
            return []
        ends = self._branch_ends[branch.fork]
        index = bisect_right(ends, (branch.started + _SAME_TIME, "\U0010ffff")) - 1
        if index < 0 or branch.started - ends[index][0] > SLOT_SECONDS:
            return []
        return _latest(self._all, ends[index][1], branch.started)

    def last(self) -> Activity | None:
        """Returns what ended last of all."""
        return self._last((*self.steps, *self.tools))

    def _last(self, activities: Iterable[Activity]) -> Activity | None:
        return max(activities, key=lambda one: (self.ended(one), one.started), default=None)

    def _ends_of(self, parent: str, before: float) -> list[Activity]:
        """Returns what a parent's name stands for, of what had ended: a step, or the ends of branches."""
        if parent not in self.forks:
            step = self.step.get(parent)
            return [step] if step is not None and self.ended(step) <= before + _SAME_TIME else []
        found: list[Activity] = []
        waiting, seen = [parent], {parent}
        while waiting:
            name = waiting.pop()
            branches = self.branches_of[name]
            if self.forks[name].join != "all":
                # The losers are cancelled by the end of the one that was waited for.
                branches = [one for one in branches if self.branches[one].outcome != "cancelled"] or branches
            for branch in branches:
                found += _latest(self._all, branch, before)
                nested = [fork for fork in self.forks_on[branch] if fork not in seen]
                seen.update(nested)
                waiting += nested
        return found


class _ByEnd:
    """Activities of one branch in the order of their ends."""

    def __init__(self, graph: Graph, activities: Sequence[Activity]) -> None:
        self.activities = activities
        self.ends = [graph.ended(one) for one in activities]


def _latest(of: dict[str, _ByEnd], branch: str, before: float) -> list[Activity]:
    """Returns the activity that ended last on a branch by a time, if any had."""
    found = of.get(branch)
    if found is None:
        return []
    index = bisect_right(found.ends, before + _SAME_TIME) - 1
    return [found.activities[index]] if index >= 0 else []
