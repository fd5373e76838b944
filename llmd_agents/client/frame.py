"""The frame: which branch the code that runs now belongs to. It follows tasks and copied contexts."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from llmd_agents.hints.limits import PARENTS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llmd_agents.hints import Forecast

    from .branch import Branch
    from .scope import Scope


class Frame(NamedTuple):
    """What the next model call is labelled with.

    Attributes:
        after: steps of other branches that it waited for.
        scope: what inferred it; None if the application declared it.
        declared: of a frame that was inferred, the innermost around it that the application declared.
    """

    branch: Branch
    kind: str | None = None
    agent: str | None = None
    forecast: Forecast | None = None
    after: tuple[str, ...] = ()
    scope: Scope | None = None
    declared: Frame | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """What the next step depends on: its branch's frontier, and the steps that it waited for by name."""
        frontier = self.branch.frontier
        if self.after:
            frontier = (*self.branch.awaited(self.after), *frontier)
        return frontier[-PARENTS_MAX:]


class Entry:
    """A frame's being entered, by a task or thread.

    A generator may be closed in another task, thread or context than the one that entered its frame, where
    the variable cannot be set back. So whoever entered a frame sees it no more once it is left, wherever that
    happens. Tasks and threads that were started within keep it, until its branch or program has ended.

    Args:
        frame: or what makes it as soon as somebody asks for it.
    """

    __slots__ = ("_by", "_frame", "left", "outer")

    def __init__(self, frame: Frame | Callable[[], Frame], outer: Entry | None) -> None:
        self._frame = frame
        self.outer = outer
        self.left = False
        self._by = weakref.ref(_running())

    @property
    def frame(self) -> Frame:
        frame = self._frame
        if not isinstance(frame, Frame):
            frame = self._frame = frame()
        return frame

    @property
    def begun(self) -> bool:
        """Whether there is a frame already."""
        return isinstance(self._frame, Frame)

    @property
    def by_caller(self) -> bool:
        """Whether the calling task or thread has entered it."""
        return self._by() is _running()

    @property
    def over(self) -> bool:
        return self.left and (not self.begun or self.frame.branch.over or self.by_caller)


def _running() -> asyncio.Task[object] | threading.Thread:
    loop = asyncio._get_running_loop()  # `current_task` would raise an exception where there is none
    task = asyncio.current_task(loop) if loop is not None else None
    return task or threading.current_thread()


_current: ContextVar[Entry | None] = ContextVar("llmd_agents_frame", default=None)

ENVIRONMENT_VARIABLE: Final = "LLMD_AGENTS_PROGRAM"
"""What hands a program over to a process."""


def _entry() -> Entry | None:
    entry = _current.get()
    while entry is not None and entry.over:
        entry = entry.outer
    return entry


def current_frame() -> Frame | None:
    entry = _entry()
    if entry is not None:
        return entry.frame
    if ENVIRONMENT_VARIABLE not in os.environ:
        return None
    from .continued import frame_of_process

    return frame_of_process()


def open_frames() -> Iterator[Frame]:
    """Yields the frames that the calling code is in, the innermost first."""
    entry = _entry()
    while entry is not None:
        if not entry.over:
            yield entry.frame
        entry = entry.outer


def enter_frame(frame: Frame | Callable[[], Frame]) -> Entry:
    entry = Entry(frame, _entry())
    _current.set(entry)
    return entry


def leave_frame(entry: Entry) -> None:
    entry.left = True
    outer = entry.outer
    if _current.get() is entry and (outer is None or not outer.left):
        _current.set(outer)
    else:
        _forget_what_is_over()


def leave_all(over: Callable[[Frame], bool]) -> None:
    """Leaves the frames of this kind that the calling task or thread has entered and not left.

    They belong to generators that are paused within them, whose surroundings have ended.
    """
    entry = _current.get()
    while entry is not None:
        if entry.begun and over(entry.frame) and entry.by_caller:
            entry.left = True
        entry = entry.outer
    _forget_what_is_over()


def _forget_what_is_over() -> None:
    entry = _entry()
    if entry is not _current.get():
        _current.set(entry)


class frame:  # noqa: N801  (a context manager that reads as a function; a generator's would cost more)
    """Lets the code of the block run in a frame."""

    __slots__ = ("_entry", "_frame")

    def __init__(self, value: Frame) -> None:
        self._frame = value

    def __enter__(self) -> Frame:
        self._entry = enter_frame(self._frame)
        return self._frame

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        leave_frame(self._entry)
