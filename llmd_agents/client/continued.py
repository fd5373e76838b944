"""Going on with a program that was begun in another process or service."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Self

from llmd_agents.hints import HINTS_HEADER, UNDECLARED, Program, Step, decode_hints

from . import quiet
from .frame import ENVIRONMENT_VARIABLE, Entry, Frame, enter_frame, leave_frame
from .handover import BAGGAGE_KEY, META_KEY
from .ids import program_id, token
from .run import FLUSH_SECONDS, Run
from .telemetry import traced

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    Carrier: TypeAlias = Mapping[str, object] | Iterable[tuple[str | bytes, str | bytes]] | str | bytes | None

_KEYS: Final = (HINTS_HEADER, ENVIRONMENT_VARIABLE.lower(), META_KEY)
_BAGGAGE_MAX_CHARS: Final = 8192


def continue_program(carrier: Carrier, *, name: str = UNDECLARED, baggage: bool = False) -> Run:
    """Goes on with a program that was begun elsewhere, on a branch of its own.

        with continue_program(request.headers) as run:
            ...

    Leaving the block ends the branch, not the program. Nothing about the carrier raises: where it holds no
    program, or none that can be read, this begins one of its own.

    Args:
        carrier: headers (a mapping in any case, or pairs as ASGI has them), `os.environ`, an MCP request's
            `_meta`, or the value itself.
        name: of the program that begins where there is none to go on with.
        baggage: whether a program's id in the headers' W3C baggage counts, where there is nothing else.
    """
    return _continued(carrier, baggage) or Run(Program(id=program_id(name), name=name))


class Continuation:
    """As `continue_program`, but the block takes the program up only when something in it asks for one.

        async with Continuation(request.headers) as going_on:
            ...

    For what serves calls of which many ask no model: those cost next to nothing, and nobody is told of them.

    Args:
        carrier: as for `continue_program`.
        name: as for `continue_program`.
    """

    def __init__(self, carrier: Carrier, *, name: str = UNDECLARED) -> None:
        self._carrier: Carrier = carrier
        self._name = name
        self._entry: Entry | None = None
        self._lock = threading.RLock()
        self._run: Run | None = None
        self._since: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Whether anything was done on the branch that what follows depends on."""
        root = self._run.root if self._run is not None else None
        return root is not None and (root.begun or root.frontier != self._since)

    def _take_up(self) -> Frame:
        with self._lock:
            if self._run is None:
                run = continue_program(self._carrier, name=self._name)
                self._since = run.root.frontier
                self._run = run  # before observers are told, who may ask for the frame
                run.start()
            return Frame(self._run.root)

    def _leave(self) -> Run | None:
        if self._entry is not None:
            leave_frame(self._entry)
        return self._run

    def __enter__(self) -> Self:
        if self._entry is not None:
            raise RuntimeError("the program was taken up here already; each continuation is one block")
        self._entry = enter_frame(self._take_up)
        if traced():
            _ = self._entry.frame  # all that is made in the block is to be within its span
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (run := self._leave()) is not None:
            run.__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (run := self._leave()) is not None:
            await run.__aexit__(kind, error, trace)


def _continued(carrier: Carrier, baggage: bool) -> Run | None:
    with quiet.faults("no program to go on with"):
        if isinstance(carrier, str | bytes):
            return _run_from(carrier)
        found = _values(carrier)
        for key in _KEYS:
            if key in found and (run := _run_from(found[key])) is not None:
                return run
        if baggage and "baggage" in found:
            return _run_from_baggage(found["baggage"])
    return None


def _values(carrier: object) -> dict[str, str | bytes]:
    """Returns what a carrier holds of ours, under names in lower case."""
    carrier = getattr(carrier, "model_extra", None) or carrier  # MCP's own model of `_meta`
    pairs = carrier.items() if isinstance(carrier, Mapping) else carrier
    found: dict[str, str | bytes] = {}
    for key, value in pairs if isinstance(pairs, Iterable) else ():
        name = (key.decode("latin-1") if isinstance(key, bytes) else str(key)).lower()
        if name in (*_KEYS, "baggage") and isinstance(value, str | bytes):
            found.setdefault(name, value)
    return found


def _run_from(value: str | bytes) -> Run | None:
    with quiet.faults("the program that was handed over cannot be read"):
        hints = decode_hints(value).hints
        if hints is not None:
            return Run(hints.program, continues=hints.step)
    return None


def _run_from_baggage(value: str | bytes) -> Run | None:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    for member in text[:_BAGGAGE_MAX_CHARS].split(","):
        key, _, rest = member.partition("=")
        if key.strip() == BAGGAGE_KEY:
            branch = token(4)
            program = Program(id=rest.partition(";")[0].strip())
            return Run(program, continues=Step(id=branch, branch=branch))
    return None


class _OfProcess:
    """The program that this process was started by, if it was handed over in the environment."""

    def __init__(self) -> None:
        self._frame: Frame | None = None
        self._read = False
        self._lock = threading.Lock()

    def frame(self) -> Frame | None:
        if not self._read:
            with self._lock:
                if not self._read:
                    self._frame = self._begin()
                    self._read = True
        return self._frame

    def _begin(self) -> Frame | None:
        value = os.environ.get(ENVIRONMENT_VARIABLE)
        run = _run_from(value) if value else None
        if run is None:
            return None
        run.start()
        atexit.register(self._end, run)
        return Frame(run.root)

    def _end(self, run: Run) -> None:
        with quiet.faults("the program's branch is not ended"):
            run.finish()
            run.outbox.flush(FLUSH_SECONDS)


frame_of_process = _OfProcess().frame
"""Tells the frame of code that has entered none."""
