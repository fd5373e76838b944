"""Reader of coding-agent sessions, as published by callanjfox/kv-cache-tester.

A session is one JSON file. Each request tells its prompt as the ids of its full blocks (equal ids are equal
blocks, and ids form a prefix tree within the file), its lengths and its times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmd_agents.hints.errors import first_problem

if TYPE_CHECKING:
    from pathlib import Path


class BadTrace(ValueError):
    """The file is not a session of this kind; the message is one line that names the file and the key."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Request(_Record):
    t: Annotated[float, Field(ge=0)]
    model: str
    input_tokens: Annotated[int, Field(alias="in", gt=0)]
    output_tokens: Annotated[int, Field(alias="out", ge=0)]
    hash_ids: list[int]
    stop: str = ""
    api_time: Annotated[float, Field(ge=0)] | None = None


class _Subagent(_Record):
    type: Literal["subagent"]
    t: Annotated[float, Field(ge=0)]
    subagent_type: str = "subagent"
    status: str = "completed"
    duration_ms: Annotated[float, Field(ge=0)] | None = None
    tool_tokens: int = 0
    system_tokens: int = 0
    requests: list[_Request]


class _Session(_Record):
    id: str
    block_size: Annotated[int, Field(gt=0)]
    tool_tokens: int = 0
    system_tokens: int = 0
    requests: Annotated[list[dict[str, Any]], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _is_session(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "requests" not in value:
            raise ValueError("is no coding-agent session: an object with id, block_size and requests")
        return value


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call of a session.

    Attributes:
        gap_s: seconds from the end of the branch's previous call (or the branch's start) to this one.
        blocks: ids of the prompt's full blocks, `input_tokens // block_size` of them.
    """

    model: str
    gap_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subagent:
    """A branch that a session started.

    Attributes:
        delay_s: seconds from the end of the main branch's previous call to its start.
        head_tokens: as in CodingSession.
        awaited: whether the main branch waited for it before it went on.
    """

    name: str
    head_tokens: int
    delay_s: float
    awaited: bool
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class CodingSession:
    """One session: the main branch's calls, with the subagents that start between them.

    Attributes:
        head_tokens: length of the tools and system prompt at the start of every prompt.
        events: in order, a Turn of the main branch, or the subagents that started at one point of it.
    """

    id: str
    block_size: int
    head_tokens: int
    events: tuple[Turn | tuple[Subagent, ...], ...]

    def turns(self) -> list[Turn]:
        """Returns all calls, nested ones included; siblings in the order of the file."""
        return [
            turn
            for event in self.events
            for turn in ([event] if isinstance(event, Turn) else [t for s in event for t in s.turns])
        ]


def read_coding_session(path: Path) -> CodingSession:
    """Reads one session.

    Gaps are rebuilt from the calls' start times and durations, because the recorded `think_time` is wrong
    after a call without `api_time`. A subagent's `t` is its completion, or its launch if it was launched
    asynchronously.

    Raises:
        BadTrace: if the file cannot be read or is no such session.
    """
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadTrace(f"{path}: not JSON: {error}") from None
    try:
        session = _Session.model_validate(raw)
        records = [
            _Subagent.model_validate(item)
            if item.get("type") == "subagent"
            else _Request.model_validate(item)
            for item in session.requests
        ]
        return CodingSession(
            session.id,
            session.block_size,
            session.tool_tokens + session.system_tokens,
            tuple(_events(records, session.block_size)),
        )
    except ValidationError as error:
        raise BadTrace(f"{path}: {first_problem(error)}") from None
    except _BadBlocks as error:
        raise BadTrace(f"{path}: {error}") from None


class _BadBlocks(ValueError):
    pass


def _events(records: list[_Request | _Subagent], block_size: int) -> list[Turn | tuple[Subagent, ...]]:
    events: list[Turn | tuple[Subagent, ...]] = []
    free_at = 0.0  # when the main branch could go on, on the trace's own clock
    index = 0
    while index < len(records):
        record = records[index]
        if isinstance(record, _Request):
            events.append(_turn(record, record.t - free_at, block_size))
            free_at = record.t + (record.api_time or 0.0)
            index += 1
            continue
        group: list[Subagent] = []
        awaited = _is_awaited(record)
        done_at = free_at
        while (
            index < len(records)
            and isinstance(sibling := records[index], _Subagent)
            and _is_awaited(sibling) == awaited
        ):
            launched = sibling.t - (sibling.duration_ms or 0.0) / 1000 if awaited else sibling.t
            group.append(_subagent(sibling, max(launched - free_at, 0.0), block_size))
            done_at = max(done_at, sibling.t)
            index += 1
        events.append(tuple(group))
        if awaited:
            free_at = done_at
    return events


def _is_awaited(subagent: _Subagent) -> bool:
    return subagent.status != "async_launched"


def _subagent(record: _Subagent, delay_s: float, block_size: int) -> Subagent:
    turns: list[Turn] = []
    free_at = 0.0
    for request in record.requests:
        turns.append(_turn(request, request.t - free_at, block_size))
        free_at = request.t + (request.api_time or 0.0)
    head_tokens = record.tool_tokens + record.system_tokens
    return Subagent(record.subagent_type, head_tokens, delay_s, _is_awaited(record), tuple(turns))


def _turn(request: _Request, gap_s: float, block_size: int) -> Turn:
    if len(request.hash_ids) != request.input_tokens // block_size:
        raise _BadBlocks(
            f"requests: the one at t={request.t:g} has {len(request.hash_ids)} hash_ids for "
            f"{request.input_tokens} tokens in blocks of {block_size}"
        )
    return Turn(
        request.model,
        max(gap_s, 0.0),
        request.input_tokens,
        request.output_tokens,
        tuple(request.hash_ids),
    )
