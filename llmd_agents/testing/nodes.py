"""What a recorded program consists of."""

from dataclasses import dataclass, field

from llmd_agents.hints import ROOT_BRANCH, Forecast, Hints, LoopPosition, Outcome


@dataclass(frozen=True)
class StepNode:
    """One step.

    Attributes:
        label: `agent/kind`, or whichever of the two there is, or `step`.
        parents: ids of the steps and forks that it declares as its parents.
        join: how many of the branches behind its parents had to finish; None for all.
        attempts: how often the call was made.
        failed: whether no attempt was answered.
    """

    id: str
    label: str
    branch: str
    kind: str | None
    agent: str | None
    model: str | None
    parents: tuple[str, ...]
    join: str | int | None
    loop: LoopPosition | None
    forecast: Forecast | None
    attempts: int = 1
    failed: bool = False

    @classmethod
    def of(cls, hints: Hints, *, failed: bool) -> "StepNode":
        step = hints.step
        return cls(
            id=step.id,
            label="/".join(name for name in (step.agent, step.kind) if name) or "step",
            branch=step.branch,
            kind=step.kind,
            agent=step.agent,
            model=step.model,
            parents=step.parents,
            join=step.join,
            loop=step.loop,
            forecast=hints.forecast,
            failed=failed,
        )

    def __str__(self) -> str:
        return f"{self.label} ({self.id}, branch {self.branch})"


@dataclass
class BranchNode:
    """One branch; `outcome` is None until it has ended. The root branch ends with its program."""

    id: str
    fork: str | None = None
    index: int | None = None
    outcome: Outcome | None = None


@dataclass
class ForkNode:
    """One fork.

    Attributes:
        width: of branches, as declared.
        branch: where it was declared.
        branches: ids of those that made a call or declared a fork.
        joined: whether its block was left.
        declared: whether that was told, or follows only from the calls of its branches.
    """

    id: str
    width: int
    branch: str = ROOT_BRANCH
    name: str | None = None
    parents: tuple[str, ...] = ()
    branches: list[str] = field(default_factory=list)
    joined: bool = False
    declared: bool = False

    @property
    def label(self) -> str:
        return self.name or "fork"


@dataclass
class ToolNode:
    """One call of a tool; times are Unix seconds by the client's clock, None if not known."""

    id: str
    name: str
    branch: str
    started_at: float | None = None
    finished_at: float | None = None
    expected: float | None = None
    outcome: Outcome | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, if both are known."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at
