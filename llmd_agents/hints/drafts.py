"""Hints as a client writes them, call by call: what was checked where it was declared is not again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from .models import Hints, Segment, Step

if TYPE_CHECKING:
    from .models import Forecast, ForkPosition, Lifetime, LoopPosition, Program, Scope, SegmentType


class SegmentDraft(NamedTuple):
    """A segment, with the fields of `Segment`."""

    type: SegmentType
    digest: bytes
    size: int
    tokens: int | None = None
    lifetime: Lifetime | float | None = None
    scope: Scope | None = None
    merged: int = 1

    def checked(self) -> Segment:
        return Segment(**self._asdict())


@dataclass(slots=True)
class StepDraft:
    """A step, with the fields of `Step`."""

    id: str
    branch: str
    kind: str | None
    model: str | None
    agent: str | None
    parents: tuple[str, ...]
    join: Literal["all", "any"] | int | None
    fork: ForkPosition | None
    loop: LoopPosition | None


@dataclass(slots=True)
class HintsDraft:
    """Hints, with the fields of `Hints`."""

    program: Program
    step: StepDraft
    extends: bytes | None
    segments: tuple[SegmentDraft, ...]
    forecast: Forecast | None
    cut: tuple[()] = ()

    def checked(self) -> Hints:
        """Returns them as the contract's own model.

        Raises:
            ValidationError: (a ValueError) naming the field that is outside the contract's limits.
        """
        step = self.step
        return Hints(
            program=self.program,
            step=Step(
                id=step.id,
                branch=step.branch,
                kind=step.kind,
                model=step.model,
                agent=step.agent,
                parents=step.parents,
                join=step.join,
                fork=step.fork,
                loop=step.loop,
            ),
            extends=self.extends,
            segments=tuple(segment.checked() for segment in self.segments),
            forecast=self.forecast,
        )
