"""One tenant's program graph: programs, branches, steps and forks, as far as requests and events tell."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from llmd_agents.hints import Event, ForkPosition, Hints, Program, Rejection, Step
from llmd_agents.hints.dependencies import ForkEnds, dependencies
from llmd_agents.hints.events import (
    BranchEnded,
    ForkDeclared,
    Joined,
    ProgramFinished,
    ProgramStarted,
    Superseded,
    ToolFinished,
    ToolStarted,
)
from llmd_agents.hints.frontier import advance
from llmd_agents.hints.limits import PARENTS_MAX

PROGRAMS_MAX = 10_000
STEPS_MAX = 100_000
STEPS_PER_PROGRAM_MAX = 20_000
BRANCHES_PER_PROGRAM_MAX = 20_000
FORKS_PER_PROGRAM_MAX = 10_000
TOOL_CALLS_PER_PROGRAM_MAX = 1_000
EDGE_WORK_MAX = 200_000


@dataclass(slots=True)
class StepRecord:
    """One step as it was run. Times are in seconds of the body's clock.

    Attributes:
        digest: the context of its prompt, where known.
        engine: where it went last; None before it was dispatched.
        attempts: how often the client sent it.
    """

    declared: Step
    digest: bytes | None
    arrived_at: float
    attempts: int = 1
    engine: str | None = None
    status: str = "waiting"
    finished_at: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class BranchRecord:
    """A branch.

    Attributes:
        frontier: ids of the steps and forks that nothing on it has followed yet.
        followed: ids of what was followed before it was known to be over: events of forks may be late.
    """

    id: str
    fork: str | None = None
    index: int | None = None
    frontier: tuple[str, ...] = ()
    followed: tuple[str, ...] = ()
    steps: int = 0
    digest: bytes | None = None
    outcome: str | None = None

    def advance(self, done: str, parents: tuple[str, ...]) -> None:
        early = [one for one in parents if one not in self.frontier]
        frontier = advance(self.frontier, done, parents)
        if done in self.followed:
            frontier = frontier[:-1]
        self.frontier = frontier[-PARENTS_MAX:]
        self.followed = (*self.followed, *early)[-PARENTS_MAX:]


@dataclass(slots=True)
class ForkRecord:
    """A fork; `branches` are those that have begun, by their index."""

    id: str
    width: int
    branch: str | None = None
    name: str | None = None
    parents: tuple[str, ...] = ()
    branches: dict[int, str] = field(default_factory=dict)
    joined: bool = False


@dataclass(slots=True)
class ToolCall:
    """One call of a tool. Times are Unix seconds by the client's clock; events arrive in batches."""

    call: str
    tool: str
    branch: str
    started_at: float
    expected: float | None
    finished_at: float | None = None
    outcome: str | None = None


@dataclass(slots=True)
class ProgramRecord:
    """One program. `forgotten` counts steps dropped to keep within the limits."""

    declared: Program
    started_at: float
    seen_at: float
    outcome: str | None = None
    forgotten: int = 0
    steps: OrderedDict[str, StepRecord] = field(default_factory=OrderedDict)
    branches: dict[str, BranchRecord] = field(default_factory=dict)
    forks: dict[str, ForkRecord] = field(default_factory=dict)
    tools: deque[ToolCall] = field(default_factory=lambda: deque(maxlen=TOOL_CALLS_PER_PROGRAM_MAX))
    superseded: int = 0
    directives: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many directives followed from it, by type and by what became of them."""

    def branch(self, branch_id: str) -> BranchRecord:
        record = self.branches.get(branch_id)
        if record is None:
            if len(self.branches) >= BRANCHES_PER_PROGRAM_MAX:
                self.branches.pop(next(iter(self.branches)))
            record = self.branches[branch_id] = BranchRecord(branch_id)
        return record

    def fork(self, fork_id: str, width: int) -> ForkRecord:
        record = self.forks.get(fork_id)
        if record is None:
            if len(self.forks) >= FORKS_PER_PROGRAM_MAX:
                self.forks.pop(next(iter(self.forks)))
            record = self.forks[fork_id] = ForkRecord(fork_id, width)
        return record

    def edges(self) -> Iterator[tuple[str, str]]:
        """Yields (step, later step) for every dependency; a fork as a parent stands for its last steps.

        Stops after `EDGE_WORK_MAX` lookups, so that a graph that was made to be large costs little to show.
        """
        named = {step: record.declared.parents for step, record in self.steps.items()}
        ends = cache(self._fork_ends)  # many steps may name one fork of many branches
        waits = dependencies(named, lambda _, fork: ends(fork), lookups_max=EDGE_WORK_MAX)
        return ((parent, step) for step, parents in waits.items() for parent in parents)

    def _fork_ends(self, fork_id: str) -> ForkEnds | None:
        fork = self.forks.get(fork_id)
        if fork is None:
            return None
        branches = [self.branches[one] for one in fork.branches.values() if one in self.branches]
        return ForkEnds([end for branch in branches for end in branch.frontier], fork.parents)


class ProgramGraph:
    """Bounded: beyond `most` programs or `most_steps` steps in all, the least recently active programs are
    forgotten; within one program the oldest steps, branches and forks are."""

    def __init__(self, *, most: int = PROGRAMS_MAX, most_steps: int = STEPS_MAX) -> None:
        self._most = most
        self._most_steps = most_steps
        self._steps = 0
        self._programs: OrderedDict[str, ProgramRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._programs)

    def get(self, program_id: str) -> ProgramRecord | None:
        return self._programs.get(program_id)

    def step(self, hints: Hints, digest: bytes | None, now: float) -> tuple[StepRecord, bool]:
        """Records that a step arrived; returns it, and whether it is the first of its branch."""
        program = self._open(hints.program, now)
        step = hints.step
        branch = program.branch(step.branch)
        known = program.steps.get(step.id)
        if known is not None:
            known.attempts += 1
            known.status = "waiting"
            return known, branch.steps <= 1
        record = program.steps[step.id] = StepRecord(step, digest, now)
        self._steps += 1
        if len(program.steps) > STEPS_PER_PROGRAM_MAX:
            program.steps.popitem(last=False)
            program.forgotten += 1
            self._steps -= 1
        branch.steps += 1
        branch.digest = digest or branch.digest
        if step.fork is not None:
            self._attach(program, branch, step.fork, step.parents)
        self._forget_oldest()
        return record, branch.steps == 1

    def answered(self, program_id: str, step: Step) -> None:
        """Records that a step has its answer, so that what follows on its branch depends on it."""
        program = self._programs.get(program_id)
        if program is not None:
            program.branch(step.branch).advance(step.id, step.parents)

    def apply(self, event: Event, now: float) -> Rejection | None:
        """Records an event; returns why it was not, if so."""
        if isinstance(event, ProgramStarted):
            if event.declared.id != event.program:
                return Rejection(event.type, "program and declared.id differ")
            self._open(event.declared, now)
            return None
        program = self._programs.get(event.program)
        if program is None:
            return Rejection(event.type, "unknown program")
        self._touch(program, now)
        if isinstance(event, ProgramFinished):
            program.outcome = event.outcome
            for branch in program.branches.values():
                branch.outcome = branch.outcome or event.outcome
        elif isinstance(event, BranchEnded):
            program.branch(event.branch).outcome = event.outcome
        elif isinstance(event, Superseded):
            program.superseded += 1
        elif isinstance(event, ToolStarted | ToolFinished):
            self._tool(program, event)
        else:
            self._fork(program, event)
        return None

    def _attach(
        self, program: ProgramRecord, branch: BranchRecord, position: ForkPosition, parents: tuple[str, ...]
    ) -> None:
        if branch.fork is not None:
            return
        branch.fork, branch.index = position.id, position.index
        fork = program.fork(position.id, position.width)
        # The event that declares the fork travels apart from its children's requests.
        fork.parents = fork.parents or parents
        if position.index < fork.width:
            fork.branches.setdefault(position.index, branch.id)

    def _fork(self, program: ProgramRecord, event: ForkDeclared | Joined) -> None:
        if isinstance(event, ForkDeclared):
            fork = program.fork(event.fork, event.width)
            fork.branch, fork.name, fork.parents = event.branch, event.name, event.parents
            if event.position is not None:
                self._attach(program, program.branch(event.branch), event.position, event.parents)
        elif (joined := program.forks.get(event.fork)) is not None:
            joined.joined = True
            program.branch(event.branch).advance(joined.id, joined.parents)

    def _tool(self, program: ProgramRecord, event: ToolStarted | ToolFinished) -> None:
        if isinstance(event, ToolStarted):
            program.tools.append(ToolCall(event.call, event.tool, event.branch, event.at, event.expected))
            return
        for call in reversed(program.tools):
            if call.call == event.call and call.branch == event.branch:
                call.finished_at, call.outcome = event.at, event.outcome
                return

    def _open(self, declared: Program, now: float) -> ProgramRecord:
        program = self._programs.get(declared.id)
        if program is None:
            # Only what is known is kept: a peer may send members of any size beside it.
            kept = Program(**{name: getattr(declared, name) for name in Program.model_fields})
            program = self._programs[kept.id] = ProgramRecord(kept, started_at=now, seen_at=now)
        self._touch(program, now)
        self._forget_oldest()
        return program

    def _touch(self, program: ProgramRecord, now: float) -> None:
        program.seen_at = now
        self._programs.move_to_end(program.declared.id)

    def _forget_oldest(self) -> None:
        while len(self._programs) > self._most or (
            self._steps > self._most_steps and len(self._programs) > 1
        ):
            _, program = self._programs.popitem(last=False)
            self._steps -= len(program.steps)
