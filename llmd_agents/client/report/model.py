"""What a report holds: plain values, alike in Python and JSON. Times are seconds since the program began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

What: TypeAlias = Literal["model", "tool", "own"]
"""Where time goes: a model call, a tool, or neither: the application's own code."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model call.

    Attributes:
        after: the steps that it waited for; the id of a fork stands for the fork's `ends`.
        on_path: whether it is on the critical path.
    """

    id: str
    branch: str
    after: tuple[str, ...]
    kind: str | None
    agent: str | None
    model: str | None
    started: float
    ended: float
    outcome: str | None
    attempts: int
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    on_path: bool


@dataclass(frozen=True, slots=True)
class Tool:
    """One call of a tool. `expected` is its declared or learned duration in seconds."""

    id: str
    tool: str
    branch: str
    asked_by: str | None
    started: float
    ended: float
    outcome: str | None
    expected: float | None
    on_path: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that was declared on a branch; `ends` are the last steps of its own branches."""

    id: str
    name: str | None
    branch: str
    width: int
    join: Literal["all", "any"] | int
    ends: tuple[str, ...]
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Branch:
    """A chain of context; `fork` is None for the one that the program began with."""

    id: str
    fork: str | None
    index: int
    started: float
    ended: float
    outcome: str | None


@dataclass(frozen=True, slots=True)
class PathPart:
    """One part of the critical path; `id` is the step's or tool's, None for the application's own code."""

    what: What
    id: str | None
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Seconds.

    Attributes:
        model: of the critical path; so are `tool` and `own`, and the three are the program's duration.
        all_model: of all steps, those that ran side by side counted each.
        parallelism: how many steps and tools ran at a time, on average over the program's duration.
    """

    model: float
    tool: float
    own: float
    all_model: float
    all_tool: float
    parallelism: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens as the servers counted them, in `counted` of the steps.

    Attributes:
        cached: of `input`, those that came from a cache.
        dollars: of the input, if a price is configured for the models.
        dollars_saved: what it would have cost more without any cache.
    """

    input: int
    cached: int
    output: int
    counted: int
    dollars: float | None
    dollars_saved: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that have something in common; `name` is None for those that have nothing declared."""

    name: str | None
    steps: int
    seconds: float
    on_path: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ToolGroup:
    """All calls of one tool; `expected` and `median` are seconds of one call."""

    name: str
    calls: int
    errors: int
    seconds: float
    on_path: float
    median: float
    expected: float | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A hint that servers used in part or not at all, and why."""

    hint: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class HintsEffect:
    """What became of the hints.

    Attributes:
        answered: steps whose server said what it did with their hints.
        accepted: hints that were used as declared, each with the number of steps.
        resyncs: how often a server asked for the whole context again.
        events_dropped: lifecycle events that this process gave up sending.
    """

    answered: int
    accepted: tuple[tuple[str, int], ...]
    clipped: tuple[Refusal, ...]
    rejected: tuple[Refusal, ...]
    resyncs: int
    events_dropped: int


@dataclass(frozen=True, slots=True)
class Break:
    """A cause for which prompts stopped being a prefix of the next.

    Attributes:
        where, what, remedy: in words, without contents.
        steps: those that it hit.
        tokens: computed again in all of them, estimated.
    """

    cause: str
    where: str
    what: str
    remedy: str
    steps: tuple[str, ...]
    tokens: int
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to change.

    Attributes:
        what: in a sentence.
        why: the numbers behind it, and how.
        seconds: of the program's duration that it would save at most; None if it saves tokens.
        tokens: computed tokens that it would save.
        share: of the program's seconds or input tokens; advice is ranked by it.
    """

    what: str
    why: str
    seconds: float | None
    tokens: int | None
    share: float
