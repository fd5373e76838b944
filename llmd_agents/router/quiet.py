"""Warnings about what clients and engines do wrong: one of each kind a minute, however often it happens."""

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("llmd_agents.router")

PERIOD_SECONDS = 60.0
_last: dict[str, float] = {}


def warn(kind: str, message: str, *args: object, exc_info: bool = False) -> None:
    """Logs a warning, or at debug level if one of the same kind was logged within a minute."""
    now = time.monotonic()
    if now - _last.get(kind, -PERIOD_SECONDS) >= PERIOD_SECONDS:
        _last[kind] = now
        log.warning(message, *args, exc_info=exc_info)
    else:
        log.debug(message, *args, exc_info=exc_info)


@contextlib.contextmanager
def faults(message: str) -> Iterator[None]:
    """Logs what is raised in the block, which ends there, and goes on: advice must not break what it advises
    on, not even by a fault of ours."""
    try:
        yield
    except Exception:  # noqa: BLE001
        warn("runtime", message, exc_info=True)
