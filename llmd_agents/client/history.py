"""What a program did, kept for its report and its spans: names, sizes and times, never contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from .clock import event_time, monotonic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.hints import Ack, ForkPosition, Lifetime, LoopPosition, Outcome
    from llmd_agents.hints.drafts import SegmentDraft
    from llmd_agents.linter import Divergence

R = TypeVar("R")

Route: TypeAlias = Literal["chat/completions", "completions", "responses"]

RECORDS_MAX = 20_000
"""Most records of a kind that a program keeps; later ones are counted only."""

CONTEXT_MAX = 64
"""Most stretches of context that a record tells apart; of more, the oldest count as one."""


@dataclass(slots=True, eq=False)
class StepRecord:
    """One model call. Times are in seconds since the program's start.

    Attributes:
        step: its id; also its name as a parent.
        server: base URL of the API that it went to.
        prompt_bytes: canonical bytes of the whole prompt.
        new_bytes: those of them that no earlier step of the branch had.
        extends: digest of what went before them; None if they are the whole prompt.
        context: digest and bytes of each stretch of context since then.
        attempts: requests sent for it.
        first_byte: when the body of the answer began.
        ended: when the answer was complete; None while it is not.
        status: of the last response.
        asked: the tools that the answer asks for: (call id, tool).
        ack: what the server said of the hints.
        divergence: where the prompt stopped extending the branch's earlier one, if it did so by mistake.
        superseded: whether the prompt is a compaction of the branch's earlier one.
    """

    step: str
    branch: str
    parents: tuple[str, ...]
    join: Literal["all", "any"] | int | None
    kind: str | None
    agent: str | None
    model: str | None
    fork: ForkPosition | None
    loop: LoopPosition | None
    route: Route
    server: str
    started: float
    prompt_bytes: int
    new_bytes: int
    attempts: int = 1
    first_byte: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    status: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    asked: tuple[tuple[str, str], ...] = ()
    ack: Ack | None = None
    divergence: Divergence | None = None
    superseded: bool = False
    extends: bytes | None = None
    context: tuple[tuple[bytes, int], ...] = ()
    span: object | None = None


def stretches(segments: Sequence[SegmentDraft]) -> tuple[tuple[bytes, int], ...]:
    """Returns the digests and sizes of a step's segments as its record keeps them."""
    surplus = max(len(segments) - CONTEXT_MAX, 0)
    told = [(segment.digest, segment.size) for segment in segments[surplus:]]
    if surplus:
        digest, size = told[0]
        told[0] = digest, size + sum(segment.size for segment in segments[:surplus])
    return tuple(told)


@dataclass(slots=True, eq=False)
class ToolRecord:
    """One call of a tool.

    Attributes:
        asked_by: the step whose answer asked for it, where that is known.
        expected: median duration in seconds, declared or learned.
    """

    call: str
    tool: str
    branch: str
    started: float
    asked_by: str | None = None
    expected: float | None = None
    result_lifetime: Lifetime | float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    span: object | None = None


@dataclass(slots=True, eq=False)
class ForkRecord:
    """A fork from its declaration to its join.

    Attributes:
        branch: the one that it forks from.
        parents: what its branches depend on.
        join: how many branches are waited for: all, any or a number.
        withdrawn: whether none of them has run, nor is waited for.
    """

    fork: str
    name: str | None
    branch: str
    width: int
    parents: tuple[str, ...]
    started: float
    join: Literal["all", "any"] | int = "all"
    withdrawn: bool = False
    ended: float | None = None
    span: object | None = None


@dataclass(slots=True, eq=False)
class BranchRecord:
    """A fork's branch, or one that was handed over from another process."""

    branch: str
    fork: str | None
    index: int
    parents: tuple[str, ...]
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    span: object | None = None


@dataclass(slots=True)
class History:
    """All of one program, in the order in which it began.

    Attributes:
        started_at: Unix seconds; the zero of all other times.
        ended: seconds since then; None while the program runs.
        dropped: records that were not kept, for there were too many.
    """

    program: str
    name: str | None
    started_at: float = field(default_factory=event_time)
    ended: float | None = None
    outcome: Outcome | None = None
    steps: list[StepRecord] = field(default_factory=list)
    tools: list[ToolRecord] = field(default_factory=list)
    forks: list[ForkRecord] = field(default_factory=list)
    branches: list[BranchRecord] = field(default_factory=list)
    dropped: int = 0
    span: object | None = None
    _zero: float = field(default_factory=monotonic)

    def now(self) -> float:
        """Returns the seconds since the program's start, by a clock that does not jump."""
        return monotonic() - self._zero

    def keep(self, records: list[R], record: R) -> None:
        """Adds a record to one of the lists, while there is room."""
        if len(records) < RECORDS_MAX:
            records.append(record)
        else:
            self.dropped += 1
