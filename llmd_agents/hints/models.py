"""What an application may declare about one model call: its program, its step, its context, what follows."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, model_validator

from .defaults import DEFAULT_PRIORITY, ROOT_BRANCH
from .fields import (
    Contract,
    Digest,
    FanOut,
    Id,
    Index,
    Iteration,
    Name,
    Seconds,
    Sigma,
    Size,
    Timestamp,
    Word,
)
from .limits import PARENTS_MAX, SEGMENTS_MAX

Priority = Annotated[int, Field(ge=0, le=100, strict=True)]


class Program(Contract):
    """One run of an agentic application."""

    id: Id
    """Stable for the program's life."""
    name: Name | None = None
    """The workflow that this is a run of."""
    priority: Priority = DEFAULT_PRIORITY
    """Higher matters more. (vLLM's own `priority` runs the other way round.)"""
    deadline: Timestamp | None = None
    """When the result is wanted."""


class ForkPosition(Contract):
    """Which child of which fork a branch is."""

    id: Id
    """The fork."""
    index: Index
    """Which of its branches; less than `width`."""
    width: FanOut
    """How many branches it has."""

    @model_validator(mode="after")
    def _index_within_width(self) -> Self:
        if self.index >= self.width:
            raise ValueError("index must be less than width")
        return self


class LoopPosition(Contract):
    """Which turn of which loop a step belongs to; the first iteration is 0."""

    id: Id
    """The loop."""
    iteration: Iteration
    """This turn."""
    limit: Iteration | None = None
    """How many turns there are at most."""


class Step(Contract):
    """One model call. The same step sent again after a failure is another attempt, not another step.

    `parents` are the DAG's edges: ids of the steps that had to end before this one began. After a join, the
    id of the fork stands for the last steps of all its branches.
    """

    id: Id
    """Unique within the program."""
    branch: Id = ROOT_BRANCH
    """The branch that it is on; every program starts with `main`."""
    kind: Name | None = None
    """plan, reason, act, evaluate, synthesize, …: an open set."""
    model: Name | None = None
    """The model that the request names, for placement without reading the body."""
    agent: Name | None = None
    """The agent that makes the call."""
    parents: Annotated[tuple[Id, ...], Field(max_length=PARENTS_MAX), FailFast()] = ()
    """Steps and forks that had to end before this one began."""
    join: Literal["all", "any"] | FanOut | None = None
    """How many of the branches behind `parents` had to finish: all, any, or k of them."""
    fork: ForkPosition | None = None
    """Which child of which fork the branch is."""
    loop: LoopPosition | None = None
    """Which turn of which loop the step belongs to."""


class SegmentType(StrEnum):
    """What a stretch of context is."""

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

    It begins where the segment before it ends; the first begins at the start of the prompt, or at `extends`.
    """

    type: Annotated[SegmentType, Word]
    """What it is."""
    digest: Digest
    """Names the prompt from its start to the segment's end."""
    size: Size
    """Bytes of this segment alone, in canonical form."""
    tokens: Size | None = None
    """Tokens of this segment alone, once a server has counted them."""
    lifetime: Annotated[Lifetime, Word] | Seconds | None = None
    """How long it matters; none stands for the type's default."""
    scope: Annotated[Scope, Word] | None = None
    """Who may meet it again; none stands for the type's default."""
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

    next: Annotated[Next, Word]
    """What follows."""
    after: Seconds | None = None
    """Median time until the branch's next step, in seconds from this step's end."""
    sigma: Sigma | None = None
    """How unsure `after` is: the standard deviation of its natural logarithm."""
    fan_out: FanOut | None = None
    """How many branches start, before a fork."""
    agent: Name | None = None
    """The agent that runs next."""
    output_tokens: Size | None = None
    """Expected length of this step's own reply, in tokens."""


class Hints(Contract):
    """Everything that one request declares. Encoded by `encode_hints`, read by `decode_hints`."""

    program: Program
    """The run that the step belongs to."""
    step: Step
    """The call that the request makes."""
    extends: Digest | None = None
    """The digest that `segments` continue; None means that they list the whole context."""
    segments: Annotated[tuple[Segment, ...], Field(max_length=SEGMENTS_MAX), FailFast()] = ()
    """The context, or what is new of it, in the order of the prompt."""
    forecast: Forecast | None = None
    """What follows the step."""
    cut: Annotated[tuple[Literal["segments", "next", "parents"], ...], FailFast()] = ()
    """Names of hints that were shortened or left out to keep within the header's limit."""

    @property
    def digest(self) -> bytes | None:
        """The chain digest of the whole prompt, where it is known."""
        return self.segments[-1].digest if self.segments else self.extends
