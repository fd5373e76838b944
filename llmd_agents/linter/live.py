"""The linter beside a running program: warnings, and observers that tests put up for a while."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .divergence import Compaction, Divergence
from .findings import Findings, sentence
from .watch import PrefixWatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llmd_agents.hints import Link

    from .prices import Prices

log = logging.getLogger("llmd_agents.linter")

DIVERGENCES_MAX = 10_000
"""Most divergences that one `watching` block keeps one by one; all of them are counted."""


class PrefixWarning(UserWarning):
    """A prompt is no prefix of the next one, so that the provider's cache cannot serve it."""


def live_message(divergence: Divergence, prices: Prices | None = None) -> str:
    """Returns the text of a warning, without contents: what diverged where, its cost, and what to do."""
    branch = f" on branch {divergence.branch}" if divergence.branch else ""
    return f"the prompt{branch} {sentence(divergence, prices)}. {divergence.remedy}"


class Watching:
    """What a `watching` block has seen so far.

    Attributes:
        findings: divergences by cause.
        divergences: each of them, in the order in which they were seen.
        compactions: histories that were replaced by shorter ones.
        requests: how many requests were observed.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self.findings = Findings(prices)
        self.divergences: list[Divergence] = []
        self.compactions: list[Compaction] = []
        self.requests = 0
        self._watch = PrefixWatch()

    def observe(
        self,
        branch: str,
        body: bytes,
        links: Sequence[Link] = (),
        parsed: Mapping[str, Any] | None = None,
    ) -> None:
        self.requests += 1
        found = self._watch.observe(branch, body, links, parsed)
        if isinstance(found, Divergence):
            self.findings.add(found)
            if len(self.divergences) < DIVERGENCES_MAX:
                self.divergences.append(found)
        elif isinstance(found, Compaction) and len(self.compactions) < DIVERGENCES_MAX:
            self.compactions.append(found)


_active: tuple[Watching, ...] = ()
_lock = threading.Lock()


@contextmanager
def watching(prices: Prices | None = None) -> Iterator[Watching]:
    """Observes the calls of all instrumented clients while the block runs, in every thread and task."""
    global _active
    mine = Watching(prices)
    with _lock:
        _active = (*_active, mine)
    try:
        yield mine
    finally:
        with _lock:
            _active = tuple(one for one in _active if one is not mine)


def feed(
    branch: str,
    body: bytes,
    links: Sequence[Link] = (),
    parsed: Mapping[str, Any] | None = None,
) -> None:
    """Tells all `watching` blocks of a request that is about to be sent; never raises.

    Args:
        branch: names the place where prompts are expected to extend each other, unique in the process.
    """
    for one in _active:
        try:
            one.observe(branch, body, links, parsed)
        except Exception as error:  # noqa: BLE001  (whatever goes wrong here, the call itself must go out)
            log.debug("request not observed: %s", type(error).__name__)
