"""The frame: which branch the code that runs now belongs to. It follows tasks and copied contexts."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmd_agents.hints import Forecast

    from .branch import Branch


@dataclass(frozen=True, slots=True)
class Frame:
    """What the next model call is labelled with."""

    branch: Branch
    kind: str | None = None
    agent: str | None = None
    forecast: Forecast | None = None


_current: ContextVar[Frame | None] = ContextVar("llmd_agents_frame", default=None)


def current_frame() -> Frame | None:
    return _current.get()


def enter_frame(frame: Frame) -> Token[Frame | None]:
    return _current.set(frame)


def leave_frame(token: Token[Frame | None]) -> None:
    # A ValueError means that it is left in another context than it was entered in, as when a generator is
    # closed elsewhere: that context never saw the frame, so there is nothing to undo.
    with suppress(ValueError):
        _current.reset(token)


@contextmanager
def frame(value: Frame) -> Iterator[Frame]:
    token = enter_frame(value)
    try:
        yield value
    finally:
        leave_frame(token)
