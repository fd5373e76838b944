"""What the library does for itself inside the application's code must not be felt there."""

from __future__ import annotations

import logging

log = logging.getLogger("llmd_agents.client")


class faults:  # noqa: N801  (reads as `contextlib.suppress` does)
    """Logs what goes wrong in the block, at debug level, and goes on after it."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        log.debug("%s: %r", self._what, error)
        return True
