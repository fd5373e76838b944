"""What the adapter does for itself inside a client or server must not be felt there."""

from __future__ import annotations

import logging

log = logging.getLogger("llmd_agents.mcp")


class faults:  # noqa: N801  (reads as `contextlib.suppress` does)
    """Logs what goes wrong in the block, at debug level, and goes on after it."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        # Only its kind: what it says may quote what a peer has sent.
        log.debug("%s: %s", self._what, type(error).__name__)
        return True
