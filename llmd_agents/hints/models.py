"""What an application may declare about one model call: its program, its step, its context, what follows."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .fields import Contract, Digest, FanOut, Id, Index, Iteration, Name, Seconds, Sigma, Size, Timestamp
from .limits import PARENTS_MAX, SEGMENTS_MAX

Priority = Annotated[int, Field(ge=0, le=100, strict=True)]

ROOT_BRANCH = "main"
"""Id of the branch that every program starts with."""

DEFAULT_PRIORITY = 50


class Program(Contract):
    """One run of an agentic application."""

    id: Id
    name: Name | None = None
    """The workflow that this is a run of."""
    priority: Priority = DEFAULT_PRIORITY
    """0–100; higher matters more. (vLLM's own `priority` runs the other way round.)"""
    deadline: Timestamp | None = None


class ForkPosition(Contract):
    """Which child of which fork a step's branch is."""

    id: Id
    index: Index
    width: FanOut

    @model_validator(mode="after")
    def _index_within_width(self) -> Self:
        if self.index >= self.width:
            raise ValueError("index must be less than width")
        return self


class LoopPosition(Contract):
    """Which turn of which loop a step belongs to; the first iteration is 0."""

    id: Id
    iteration: Iteration
    limit: Iteration | None = None


class Step(Contract):
    """One model call.

    `parents` are the DAG's edges: ids of the steps that had to end before this one began. After a join, the
    id of the fork stands for the last steps of all its branches.
    """

    id: Id
    branch: Id = ROOT_BRANCH
    kind: Name | None = None
    """plan, reason, act, evaluate, synthesize, …: an open set."""
    model: Name | None = None
    """The model that the request names, for placement without reading the body."""
    agent: Name | None = None
    parents: Annotated[tuple[Id, ...], Field(max_length=PARENTS_MAX)] = ()
    join: Literal["all", "any"] | Annotated[int, Field(ge=1, strict=True)] | None = None
    """How many of the branches behind `parents` had to finish: all, any, or k of them."""
    fork: ForkPosition | None = None
    loop: LoopPosition | None = None


class SegmentType(StrEnum):
    SYSTEM_PROMPT = "system_prompt"
    TOOL_DEFINITION = "tool_definition"
    DOCUMENT = "document"
    CONVERSATION_TURN = "conversation_turn"
    REASONING_BRANCH = "reasoning_branch"
    CHECKPOINT = "checkpoint"
    SCRATCH = "scratch"


class Lifetime(StrEnum):
    """How long a segment matters; a number of seconds may stand in its place."""

    PERSISTENT = "persistent"
    PROGRAM = "program"
    BRANCH = "branch"
    STEP = "step"


class Scope(StrEnum):
    """Who may meet the same segment again: only its program, or any program of the tenant."""

    PROGRAM = "program"
    TENANT = "tenant"


DEFAULT_LIFETIME: dict[SegmentType, Lifetime] = {
    SegmentType.SYSTEM_PROMPT: Lifetime.PERSISTENT,
    SegmentType.TOOL_DEFINITION: Lifetime.PERSISTENT,
    SegmentType.DOCUMENT: Lifetime.PROGRAM,
    SegmentType.CONVERSATION_TURN: Lifetime.BRANCH,
    SegmentType.REASONING_BRANCH: Lifetime.BRANCH,
    SegmentType.CHECKPOINT: Lifetime.PROGRAM,
    SegmentType.SCRATCH: Lifetime.STEP,
}
DEFAULT_SCOPE: dict[SegmentType, Scope] = {
    segment_type: (
        Scope.TENANT
        if segment_type in (SegmentType.SYSTEM_PROMPT, SegmentType.TOOL_DEFINITION)
        else Scope.PROGRAM
    )
    for segment_type in SegmentType
}


class Segment(Contract):
    """A typed stretch of context, named by the chain digest at its end.

    It begins where the segment before it ends. `size` counts the UTF-8 bytes of its canonical form, `tokens`
    is filled in once a server has counted them.
    """

    type: SegmentType
    digest: Digest
    size: Size
    tokens: Size | None = None
    lifetime: Lifetime | Seconds | None = None
    """None stands for the type's default."""
    scope: Scope | None = None
    """None stands for the type's default."""
    merged: Annotated[int, Field(ge=1, le=SEGMENTS_MAX, strict=True)] = 1
    """How many declared segments this one stands for (more than 1 after truncation)."""

    @property
    def effective_lifetime(self) -> Lifetime | float:
        return DEFAULT_LIFETIME[self.type] if self.lifetime is None else self.lifetime

    @property
    def effective_scope(self) -> Scope:
        return DEFAULT_SCOPE[self.type] if self.scope is None else self.scope


class Next(StrEnum):
    """What follows a step."""

    TOOL = "tool"
    HUMAN = "human"
    FORK = "fork"
    JOIN = "join"
    END = "end"


class Forecast(Contract):
    """What the application expects after a step."""

    next: Next
    after: Seconds | None = None
    """Median time until the branch's next step, in seconds from this step's end."""
    sigma: Sigma | None = None
    """How unsure `after` is: the standard deviation of its natural logarithm."""
    fan_out: FanOut | None = None
    agent: Name | None = None
    """The agent that runs next."""
    output_tokens: Size | None = None
    """Expected length of this step's own reply."""


class Hints(Contract):
    """Everything that one request declares. Encoded by `encode_hints`, read by `decode_hints`."""

    program: Program
    step: Step
    extends: Digest | None = None
    """The digest that `segments` continue; None means that they list the whole context."""
    segments: Annotated[tuple[Segment, ...], Field(max_length=SEGMENTS_MAX)] = ()
    forecast: Forecast | None = None
    cut: tuple[Literal["segments", "next", "parents"], ...] = ()
    """Names of hints that were shortened or left out to keep within the header's limit."""

    @property
    def digest(self) -> bytes | None:
        """The chain digest of the whole prompt, where it is known."""
        return self.segments[-1].digest if self.segments else self.extends
