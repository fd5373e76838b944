"""What the library does for itself inside the application's code must not be felt there."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("llmd_agents.client")


@contextmanager
def faults(what: str) -> Iterator[None]:
    """Logs what goes wrong in the block, at debug level, and goes on after it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (hints are advice)
        log.debug("%s: %r", what, error)
