"""What the library does for itself inside the application's code must not be felt there."""

from __future__ import annotations

import logging
import os.path
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

log = logging.getLogger("llmd_agents.client")


class faults:  # noqa: N801  (reads as `contextlib.suppress` does)
    """Logs what goes wrong in the block, at debug level, and goes on after it.

        with faults("the end of a tool is not noted"):
            scope.end()

    As a decorator it is for functions that return nothing. Cancellations and `KeyboardInterrupt` pass.

    Args:
        what: what comes of it.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        note_fault(self._what, error)
        return True

    def __call__(self, function: Callable[P, None]) -> Callable[P, None]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  (whatever it is, nobody feels it)
                note_fault(self._what, error)

        return called


def note_fault(what: str, error: Exception) -> None:
    """Logs what goes wrong as `faults` does, for what runs so often that a block costs too much."""
    # Not what it says: that may quote a prompt, or what a peer has sent.
    log.debug("%s: %s at %s", what, type(error).__name__, _place(error))


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
