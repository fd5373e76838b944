"""Warnings about what clients and engines do wrong: one of each kind a minute, however often it happens."""

import logging
import time

log = logging.getLogger("llmd_agents.router")

PERIOD_SECONDS = 60.0
_last: dict[str, float] = {}


def warn(kind: str, message: str, *args: object) -> None:
    """Logs a warning, or at debug level if one of the same kind was logged within a minute."""
    now = time.monotonic()
    if now - _last.get(kind, -PERIOD_SECONDS) >= PERIOD_SECONDS:
        _last[kind] = now
        log.warning(message, *args)
    else:
        log.debug(message, *args)
