"""Feeds the event log of a runtime to a fresh one and compares what it decides."""

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmd_agents.hints import (
    Decoded,
    DirectiveOutcome,
    EngineKv,
    Event,
    Hints,
    Link,
    Rejection,
    ResidencyBatch,
)

from .journal import VERSION, Journal
from .load import EngineLoad
from .runtime import Arrival, Call, Mode, Runtime, Usage

DECISIONS = frozenset(("ranking", "directive"))

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class BadJournal(ValueError):
    """The log is none, or of another version, or a part of it is missing; says which line."""


@dataclass(frozen=True, slots=True)
class Redecided:
    """What feeding a log to a fresh runtime gave.

    Attributes:
        inputs, rankings, directives: lines of each kind that were compared.
        first_difference: None if all decisions were the same; else the line's number, what stands there, and
            what was decided instead.
    """

    inputs: int
    rankings: int
    directives: int
    first_difference: str | None


def redecide(lines: Iterable[bytes]) -> Redecided:
    """Feeds the inputs of a log to a fresh runtime and compares its decisions with those in the log.

    A log may hold several runs, one after the other.

    Raises:
        BadJournal: if it cannot be read, or lines were dropped when it was written.
    """
    comparison = _Comparison()
    player: _Player | None = None
    counts = {"input": 0, "ranking": 0, "directive": 0}
    for number, line in enumerate(lines, 1):
        data = line.strip()
        if not data:
            continue
        try:
            fields = json.loads(data)
            name = fields.pop("is")
            comparison.recorded(number, data)
            if name == "runtime":
                player = _Player(fields, comparison.decided)
            elif player is None:
                raise ValueError("not the beginning of a log")
            elif name in DECISIONS:
                counts[name] += 1
            else:
                counts["input"] += 1
                player.play(name, fields)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise BadJournal(f"line {number}: {error}") from error
    return Redecided(counts["input"], counts["ranking"], counts["directive"], comparison.end())


class _Comparison:
    """Compares what was recorded with what is decided now, line by line; either may run ahead."""

    def __init__(self) -> None:
        self._difference: str | None = None
        self._recorded: deque[tuple[int, bytes]] = deque()
        self._decided: deque[bytes] = deque()

    def recorded(self, number: int, line: bytes) -> None:
        self._recorded.append((number, line))
        self._compare()

    def decided(self, line: bytes) -> None:
        self._decided.append(line)
        self._compare()

    def end(self) -> str | None:
        """Returns the first difference."""
        if self._difference is None and self._recorded:
            number, line = self._recorded[0]
            return f"line {number}: {_shown(line)}, not decided now"
        if self._difference is None and self._decided:
            return f"the end, decided now: {_shown(self._decided[0])}"
        return self._difference

    def _compare(self) -> None:
        if not (self._recorded and self._decided):
            return
        number, was = self._recorded.popleft()
        now = self._decided.popleft()
        if was != now and self._difference is None:
            self._difference = f"line {number}: {_shown(was)}, decided now: {_shown(now)}"


class _Player:
    """Calls a fresh runtime's methods as a log says."""

    def __init__(self, fields: dict[str, Any], write: Callable[[bytes], None]) -> None:
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']} is not {VERSION}")
        self._runtime: Runtime = Runtime(
            fields["engines"],
            fields["tenants"],
            placement=fields["placement"],
            mode=Mode(fields["mode"]),
            journal=Journal(write),
        )
        self._calls: dict[int, Call] = {}

    def play(self, name: str, fields: dict[str, Any]) -> None:
        runtime = self._runtime
        # What the body took before its next input is on its way; taking it is no input of its own.
        runtime.take_directives()
        match name:
            case "arrive":
                call = runtime.arrive(_arrival(fields["arrival"]))
                self._calls[call.id] = call
            case "dispatched":
                runtime.dispatched(self._calls[fields["call"]], fields["engine"], fields["at"])
            case "answering":
                runtime.answering(self._calls[fields["call"]], fields["at"])
            case "finished":
                usage = Usage(**fields["usage"]) if fields["usage"] is not None else None
                runtime.finished(self._calls[fields["call"]], usage, fields["at"])
            case "engine_failed":
                runtime.failed(self._calls[fields["call"]], fields["at"])
            case "ended_early":
                runtime.ended_early(self._calls[fields["call"]], fields["status"], fields["at"])
            case "continued":
                digest, after = bytes.fromhex(fields["digest"]), bytes.fromhex(fields["after"])
                runtime.continued(fields["tenant"], digest, after, fields["size"], fields["at"])
            case "observe":
                event = _EVENT.validate_python(fields["event"])
                runtime.observe(fields["tenant"], event, fields["at"])
            case "report":
                batch = ResidencyBatch.model_validate(fields["batch"])
                runtime.report(fields["engine"], batch, fields["at"])
            case "engine_up":
                runtime.engine_up(fields["engine"], fields["at"])
            case "engine_down":
                runtime.engine_down(fields["engine"], fields["at"])
            case "engine_silent":
                runtime.engine_silent(fields["engine"], fields["at"])
            case "engine_kv":
                kv = EngineKv.model_validate(fields["kv"]) if fields["kv"] is not None else None
                runtime.engine_kv(fields["engine"], kv, fields["at"])
            case "engine_load":
                runtime.engine_load(fields["engine"], EngineLoad(**fields["load"]), fields["at"])
            case "tick":
                runtime.tick(fields["at"])
            case "set_mode":
                runtime.set_mode(Mode(fields["mode"]), fields["at"])
            case "directive_answered":
                answer = fields["outcome"]
                outcome = DirectiveOutcome.model_validate(answer) if answer is not None else None
                runtime.directive_answered(fields["issued"], outcome, fields["at"])
            case _:
                raise ValueError(f"{name!r} is no input")


def _arrival(fields: dict[str, Any]) -> Arrival:
    decoded = fields["decoded"]
    links = fields["links"]
    return Arrival(
        tenant=fields["tenant"],
        size=fields["size"],
        at=fields["at"],
        decoded=None
        if decoded is None
        else Decoded(
            hints=Hints.model_validate(decoded["hints"]) if decoded["hints"] is not None else None,
            rejected=tuple(Rejection(**item) for item in decoded["rejected"]),
            ignored=tuple(decoded["ignored"]),
        ),
        links=None
        if links is None
        else [Link(bytes.fromhex(link["digest"]), link["size"], link["role"]) for link in links],
    )


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return text if len(text) <= 300 else f"{text[:300]}…"
