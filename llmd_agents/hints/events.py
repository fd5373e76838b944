"""Lifecycle events: what happens between model calls, posted as JSON to `/v1/agent/events`.

{"version": 1, "events": [{"type": "tool_started", "program": "p1", "at": 1760000000.0, …}, …]}
"""

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import FailFast, Field, TypeAdapter, ValidationError

from .defaults import ROOT_BRANCH
from .errors import UnreadableHints, first_problem
from .fields import Contract, Digest, FanOut, Id, Name, Seconds, Sigma, Timestamp, Word
from .header import VERSION, Rejection
from .limits import EVENTS_BODY_MAX_BYTES, EVENTS_PER_BATCH_MAX, PARENTS_MAX
from .models import ForkPosition, Lifetime, Program

EVENTS_PATH = "/v1/agent/events"

Outcome = Literal["ok", "error", "cancelled", "abandoned"]


class ProgramStarted(Contract):
    """A program has begun."""

    type: Literal["program_started"] = "program_started"
    program: Id
    at: Timestamp
    declared: Program
    """What is declared of it; of the same id."""


class ProgramFinished(Contract):
    """The program has ended; its context is dead, apart from what the tenant shares."""

    type: Literal["program_finished"] = "program_finished"
    program: Id
    at: Timestamp
    outcome: Outcome = "ok"
    """How it ended."""


class ToolStarted(Contract):
    """A branch waits for a tool."""

    type: Literal["tool_started"] = "tool_started"
    program: Id
    at: Timestamp
    branch: Id = ROOT_BRANCH
    call: Id
    """This call of the tool; the same in both its events."""
    tool: Name
    """What is called."""
    expected: Seconds | None = None
    """Median duration, in seconds."""
    sigma: Sigma | None = None
    """How unsure `expected` is."""
    result_lifetime: Annotated[Lifetime, Word] | Seconds | None = None
    """How long its result will matter in the branch's context."""


class ToolFinished(Contract):
    """The branch waits no longer."""

    type: Literal["tool_finished"] = "tool_finished"
    program: Id
    at: Timestamp
    branch: Id = ROOT_BRANCH
    call: Id
    """This call of the tool; the same in both its events."""
    tool: Name
    """What is called."""
    outcome: Outcome = "ok"
    """How it ended."""


class ForkDeclared(Contract):
    """`width` branches are about to start from the context of `branch`."""

    type: Literal["fork_declared"] = "fork_declared"
    program: Id
    at: Timestamp
    branch: Id = ROOT_BRANCH
    fork: Id
    """Stands for all its branches as a parent of the step after the join."""
    width: FanOut
    """How many branches."""
    name: Name | None = None
    """What they do."""
    parents: Annotated[tuple[Id, ...], Field(max_length=PARENTS_MAX), FailFast()] = ()
    """Steps and forks that the branches depend on."""
    position: ForkPosition | None = None
    """Which child of which fork `branch` itself is: there may be no step on it that says so."""


class BranchEnded(Contract):
    """No further step comes on this branch: what only it used is dead."""

    type: Literal["branch_ended"] = "branch_ended"
    program: Id
    at: Timestamp
    branch: Id
    """The branch that ended."""
    outcome: Outcome = "ok"
    """How it ended."""


class Superseded(Contract):
    """The branch's context up to `digest` was rewritten (compaction) and will not be extended again."""

    type: Literal["superseded"] = "superseded"
    program: Id
    at: Timestamp
    branch: Id = ROOT_BRANCH
    digest: Digest
    """Names the context that is no longer in use."""


class Joined(Contract):
    """The fork's block was left: its branches have ended or were given up."""

    type: Literal["joined"] = "joined"
    program: Id
    at: Timestamp
    branch: Id = ROOT_BRANCH
    fork: Id
    """The fork that was joined."""


Event: TypeAlias = (
    ProgramStarted
    | ProgramFinished
    | ToolStarted
    | ToolFinished
    | ForkDeclared
    | BranchEnded
    | Superseded
    | Joined
)


class _Batch(Contract):
    version: int
    events: Annotated[list[dict[str, Any]], Field(max_length=EVENTS_PER_BATCH_MAX), FailFast()]


@cache
def _any_event() -> TypeAdapter[Event]:
    # Made when first asked for: only servers read events.
    return TypeAdapter(Annotated[Event, Field(discriminator="type")])


def encode_events(events: Iterable[Event]) -> bytes:
    """Returns the JSON body of one batch."""
    listed = ",".join(event.model_dump_json(exclude_none=True, warnings=False) for event in events)
    return f'{{"version":{VERSION},"events":[{listed}]}}'.encode()


def decode_events(body: bytes) -> list[Event | Rejection]:
    """Reads a batch; a bad event is rejected alone, and its rejection stands in its place.

    Raises:
        UnreadableHints: if the body is too long, no batch, or of another version.
    """
    if len(body) > EVENTS_BODY_MAX_BYTES:
        raise UnreadableHints(f"{len(body)} bytes, more than {EVENTS_BODY_MAX_BYTES}")
    try:
        batch = _Batch.model_validate_json(body)
    except ValidationError as error:
        raise UnreadableHints(first_problem(error)) from None
    if batch.version != VERSION:
        raise UnreadableHints(f"version {batch.version} is not known (this is version {VERSION})")
    return [_read(raw) for raw in batch.events]


def _read(raw: dict[str, Any]) -> Event | Rejection:
    try:
        return _any_event().validate_python(raw)
    except ValidationError as error:
        return Rejection("event", first_problem(error))
