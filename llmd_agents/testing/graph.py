"""The graph of a program as it was recorded, and assertions on it. No I/O: hints and events go in."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from llmd_agents.hints import (
    ROOT_BRANCH,
    BranchEnded,
    Event,
    ForkDeclared,
    ForkPosition,
    Hints,
    Joined,
    Outcome,
    ProgramFinished,
    ProgramStarted,
    Superseded,
    ToolFinished,
    ToolStarted,
)
from llmd_agents.hints.dependencies import ForkEnds, dependencies

from .nodes import BranchNode, ForkNode, StepNode, ToolNode
from .shape import program_shape, program_text


class ProgramGraph:
    """One recorded program.

    Assertions name steps by their labels; `labelled` gives them others. All raise AssertionError, with what
    was recorded beside what was expected.

    Attributes:
        id: made anew for each run, as a rule.
        name: of the workflow.
        outcome: None until it has finished.
        superseded: how often a branch's context was rewritten.
        steps: in the order of their arrival; each once, however often it was tried.
    """

    def __init__(self, program_id: str) -> None:
        self.id = program_id
        self.name: str | None = None
        self.priority: int | None = None
        self.outcome: Outcome | None = None
        self.superseded = 0
        self._steps: dict[str, StepNode] = {}
        self._branches: dict[str, BranchNode] = {}
        self._forks: dict[str, ForkNode] = {}
        self._tools: dict[str, ToolNode] = {}

    @property
    def steps(self) -> list[StepNode]:
        return list(self._steps.values())

    @property
    def branches(self) -> list[BranchNode]:
        return list(self._branches.values())

    @property
    def forks(self) -> list[ForkNode]:
        return list(self._forks.values())

    @property
    def tools(self) -> list[ToolNode]:
        """By the time at which they started, where it is known."""
        return sorted(self._tools.values(), key=lambda tool: tool.started_at or 0.0)

    @property
    def edges(self) -> list[tuple[StepNode, StepNode]]:
        """(step, later step) for every dependency; a fork as a parent stands for its branches' last steps."""
        return [(parent, step) for step in self.steps for parent in self.parents(step)]

    def parents(self, step: StepNode) -> list[StepNode]:
        """The steps that a step waited for."""
        return self._parents[step.id]

    def on_branch(self, branch: str) -> list[StepNode | ForkNode]:
        """The steps, and the forks that were declared, on one branch."""
        return self._by_branch.get(branch, [])

    def item(self, item_id: str) -> StepNode | ForkNode | None:
        """The step or fork of this id."""
        return self._steps.get(item_id) or self._forks.get(item_id)

    def labelled(self, label: Callable[[StepNode], str]) -> "ProgramGraph":
        """Returns the same graph with other labels on its steps."""
        other = ProgramGraph(self.id)
        other.name, other.priority, other.outcome = self.name, self.priority, self.outcome
        other.superseded, other._tools = self.superseded, self._tools
        other._branches, other._forks = self._branches, self._forks
        other._steps = {step.id: replace(step, label=label(step)) for step in self.steps}
        return other

    def shape(self) -> str:
        """Returns the program's structure on one line, such as `plan > fork(8: think) > judge`.

        `a > b`: b follows a on the same branch. `fork(2: a > b | c)`: branches, those alike counted, in no
        particular order. `loop(3: a)`: iterations, in order. `together(a | b)`: calls that overlapped on one
        branch without a fork. `-`: a branch without calls. `a!`: a step that got no answer.
        """
        return program_shape(self)

    def to_text(self) -> str:
        """Returns the program as text for snapshot tests: the same whenever the structure is the same.

        Ids, times and the order in which parallel branches happened to run do not show in it.
        """
        return program_text(self)

    def __str__(self) -> str:
        return f"{self.name or 'unnamed'} ({self.id})"

    # --- assertions

    def assert_shape(self, expected: str) -> None:
        """Checks that `shape()` is this text; how it is spaced and broken into lines does not matter."""
        __tracebackhide__ = True
        wanted, found = " ".join(expected.split()), self.shape()
        if wanted != found:
            same = next(
                (at for at, (one, other) in enumerate(zip(wanted, found, strict=False)) if one != other),
                min(len(wanted), len(found)),
            )
            self._fail(
                "has another shape", f"expected: {wanted}", f"recorded: {found}", f"{' ' * (same + 10)}^"
            )

    def assert_edges(self, expected: Mapping[str, Collection[str]]) -> None:
        """Checks which labels follow which: `{"plan": ["think"], "think": ["judge"]}`.

        Several steps with one label count as one; labels that nothing follows may be left out.
        """
        __tracebackhide__ = True
        wanted = {(label, later) for label, followers in expected.items() for later in followers}
        found = {(one.label, other.label) for one, other in self.edges}
        if wanted != found:
            absent = [f"- {one} > {other}   (expected, absent)" for one, other in sorted(wanted - found)]
            extra = [f"+ {one} > {other}   (recorded, not expected)" for one, other in sorted(found - wanted)]
            self._fail("has other edges", *absent, *extra, f"recorded: {self.shape()}")

    def assert_forked(self, width: int | None = None, *, name: str | None = None) -> ForkNode:
        """Checks that there is exactly one fork of this width and name, and returns it."""
        __tracebackhide__ = True
        matching = [fork for fork in self.forks if width in (None, fork.width) and name in (None, fork.name)]
        if len(matching) != 1:
            wanted = " ".join(
                ["one fork", *([repr(name)] if name else []), *([f"of width {width}"] if width else [])]
            )
            found = ", ".join(f"{fork.label!r} of width {fork.width}" for fork in self.forks) or "none"
            self._fail(f"does not have {wanted}", f"recorded forks: {found}")
        return matching[0]

    def assert_sequential(self, *labels: str) -> None:
        """Checks that steps ran one after another: those with these labels, or all.

        With several labels, every step with one of them comes after all steps with the label before it; with
        one or none, no two of the steps ran independently of each other.
        """
        __tracebackhide__ = True
        groups = [self._labelled(label) for label in labels] or [self.steps]
        if len(groups) == 1:
            steps = self._in_order(groups[0])
            pairs = list(pairwise(steps))
        else:
            pairs = [(one, other) for a, b in pairwise(groups) for one in a for other in b]
        for one, other in pairs:
            if one.id not in self._ancestors(other):
                self._fail(
                    "is not sequential there",
                    f"{other} did not wait for {one}",
                    f"recorded: {self.shape()}",
                )

    def assert_parallel(self, *labels: str) -> None:
        """Checks that at least two steps have one of these labels, and none of them waited for another."""
        __tracebackhide__ = True
        steps = [step for label in labels for step in self._labelled(label)]
        if len(steps) < 2:
            self._fail(f"has only one step labelled {' or '.join(map(repr, labels))}")
        ids = {step.id for step in steps}
        for step in steps:
            if waited := ids & self._ancestors(step):
                self._fail(
                    "is not parallel there",
                    f"{step} waited for {self._steps[min(waited)]}",
                    f"recorded: {self.shape()}",
                )

    def assert_tools(self, expected: Sequence[str] | Mapping[str, int]) -> None:
        """Checks which tools were called: names in the order in which they started, or a count for each name.

        Where branches run at the same time, only counts are the same in every run.
        """
        __tracebackhide__ = True
        names = [tool.name for tool in self.tools]
        found: Any = dict(Counter(names)) if isinstance(expected, Mapping) else names
        wanted: Any = dict(expected) if isinstance(expected, Mapping) else list(expected)
        if found != wanted:
            self._fail("called other tools", f"expected: {wanted}", f"recorded: {found}")

    # --- reading

    def _labelled(self, label: str) -> list[StepNode]:
        __tracebackhide__ = True
        found = [step for step in self.steps if step.label == label]
        if not found:
            known = ", ".join(sorted({repr(step.label) for step in self.steps})) or "none"
            self._fail(f"has no step labelled {label!r}", f"recorded labels: {known}")
        return found

    def _fail(self, what: str, *details: str) -> None:
        __tracebackhide__ = True
        raise AssertionError("\n".join([f"program {self} {what}", *(f"  {line}" for line in details)]))

    @cached_property
    def _parents(self) -> dict[str, list[StepNode]]:
        named = {step.id: step.parents for step in self.steps}
        waits = dependencies(named, self._fork_ends)
        return {step: [self._steps[one] for one in parents] for step, parents in waits.items()}

    def _fork_ends(self, step: str, fork_id: str) -> ForkEnds | None:
        fork = self._forks.get(fork_id)
        if fork is None:
            return None
        branches = [self._branches[branch] for branch in fork.branches]
        if self._steps[step].join not in (None, "all"):
            # A join of any or k waits for none of those that were given up.
            branches = [branch for branch in branches if branch.outcome in (None, "ok")]
        return ForkEnds([end for branch in branches for end in self._ends(branch.id)], fork.parents)

    def _ends(self, branch: str) -> list[str]:
        """The steps and forks on a branch that nothing on it followed."""
        items = [item for item in self.on_branch(branch) if self._can_be_followed(item)]
        followed = {parent for item in items for parent in item.parents}
        return [item.id for item in items if item.id not in followed]

    def _can_be_followed(self, item: StepNode | ForkNode) -> bool:
        if isinstance(item, StepNode):
            return not item.failed
        # Nothing waits for a fork that was declared and not joined: it goes on beside what follows.
        return item.joined or not item.declared or item.id in self._named

    @cached_property
    def _named(self) -> set[str]:
        items: list[StepNode | ForkNode] = [*self.steps, *self.forks]
        return {parent for item in items for parent in item.parents}

    @cached_property
    def _by_branch(self) -> dict[str, list[StepNode | ForkNode]]:
        found: dict[str, list[StepNode | ForkNode]] = {}
        items: list[StepNode | ForkNode] = [*self.steps, *self.forks]
        for item in items:
            found.setdefault(item.branch, []).append(item)
        return found

    def _ancestors(self, step: StepNode) -> set[str]:
        found: set[str] = set()
        pending = [step]
        while pending:
            for parent in self.parents(pending.pop()):
                if parent.id not in found:
                    found.add(parent.id)
                    pending.append(parent)
        return found

    def _in_order(self, steps: list[StepNode]) -> list[StepNode]:
        return sorted(steps, key=lambda step: len(self._ancestors(step)))

    # --- building

    def _step(self, hints: Hints, *, failed: bool) -> None:
        self.name, self.priority = hints.program.name, hints.program.priority
        step = hints.step
        known = self._steps.get(step.id)
        if known is not None:
            self._steps[step.id] = replace(known, attempts=known.attempts + 1)
            return
        self._attach(self._branch(step.branch), step.fork, step.parents)
        self._steps[step.id] = StepNode.of(hints, failed=failed)

    def _attach(self, branch: BranchNode, position: ForkPosition | None, parents: tuple[str, ...]) -> None:
        if position is None or branch.fork is not None:
            return
        fork = self._forks.get(position.id)
        if fork is None:
            # The event that declares the fork may be missing: its first child tells where it started.
            homes = (self._steps[one].branch for one in parents if one in self._steps)
            home = next(homes, ROOT_BRANCH)
            fork = self._forks[position.id] = ForkNode(position.id, position.width, home, parents=parents)
        # Hints that were made up may put a branch below itself.
        above: str | None = fork.branch
        while above is not None:
            if above == branch.id:
                return
            outer = self._forks.get(self._branch(above).fork or "")
            above = outer.branch if outer is not None else None
        branch.fork, branch.index = position.id, position.index
        fork.branches.append(branch.id)

    def _event(self, event: Event) -> None:
        match event:
            case ProgramStarted():
                self.name, self.priority = event.declared.name, event.declared.priority
            case ProgramFinished():
                self.outcome = self._branch(ROOT_BRANCH).outcome = event.outcome
            case BranchEnded():
                self._branch(event.branch).outcome = event.outcome
            case ForkDeclared():
                self._branch(event.branch)
                self._forks[event.fork] = ForkNode(
                    event.fork, event.width, event.branch, event.name, event.parents, declared=True
                )
            case Joined():
                if event.fork in self._forks:
                    self._forks[event.fork].joined = True
            case ToolStarted():
                tool = self._tool(event)
                tool.started_at, tool.expected = event.at, event.expected
            case ToolFinished():
                tool = self._tool(event)
                tool.finished_at, tool.outcome = event.at, event.outcome
            case Superseded():
                self.superseded += 1

    def _branch(self, branch_id: str) -> BranchNode:
        return self._branches.setdefault(branch_id, BranchNode(branch_id))

    def _tool(self, event: ToolStarted | ToolFinished) -> ToolNode:
        return self._tools.setdefault(event.call, ToolNode(event.call, event.tool, event.branch))


def program_graphs(
    records: Iterable[Hints | Event], *, failed: Collection[tuple[str, str]] = frozenset()
) -> list[ProgramGraph]:
    """Returns the graph of each program that the records tell of, in the order of their first records.

    Args:
        records: the hints of every model call, and the events, in any order among each other; of one program
            or several. The hints of a step that was tried again may come again. Events that come twice, as
            from two servers, count once.
        failed: (program id, step id) of the steps that never got an answer.
    """
    graphs: dict[str, ProgramGraph] = {}
    calls: list[Hints] = []
    events: dict[str, Event] = {}
    for record in records:
        if isinstance(record, Hints):
            calls.append(record)
            program_id = record.program.id
        else:
            events.setdefault(record.model_dump_json(), record)
            program_id = record.program
        graphs.setdefault(program_id, ProgramGraph(program_id))
    # Forks come before their joins and their children, however late their events were.
    for event in sorted(events.values(), key=lambda event: not isinstance(event, ForkDeclared)):
        graphs[event.program]._event(event)
    for hints in calls:
        key = (hints.program.id, hints.step.id)
        graphs[hints.program.id]._step(hints, failed=key in failed)
    for event in events.values():
        if isinstance(event, ForkDeclared):
            graph = graphs[event.program]
            graph._attach(graph._branch(event.branch), event.position, event.parents)
    return list(graphs.values())
