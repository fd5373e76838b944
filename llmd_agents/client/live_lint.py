"""The prompt-cache linter beside running programs: a warning where a prompt stops extending the last one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from llmd_agents.linter import (
    BadPrice,
    Divergence,
    Findings,
    PrefixWarning,
    PrefixWatch,
    feed,
    live_message,
    prices_from_environment,
)

from .quiet import faults

if TYPE_CHECKING:
    from llmd_agents.linter import Prices

    from .branch import Branch
    from .steps import PendingStep

# One for all programs of the process, so that what it remembers is bounded however many run at once.
_watch = PrefixWatch()
_findings = Findings()


def lint(pending: PendingStep, content: bytes) -> None:
    """Compares a request with what its branch sent before; warns once per cause."""
    with faults("a prompt was not compared with the one before"):
        key, links = _key(pending.branch), pending.prompt.links
        feed(key, content, links)
        found = _watch.observe(key, content, links)
        if isinstance(found, Divergence):
            pending.record.divergence = found
            if _findings.add(found):
                warnings.warn(live_message(found, _prices()), PrefixWarning, stacklevel=2)


def learn(pending: PendingStep) -> None:
    """Learns from an answer how many bytes a token has."""
    if pending.record.input_tokens is not None:
        _watch.learn(pending.record.prompt_bytes, pending.record.input_tokens)


def forget(branch: Branch) -> None:
    """Frees what is remembered of a branch that has ended."""
    _watch.forget(_key(branch))


def _prices() -> Prices | None:
    try:
        return prices_from_environment()
    except BadPrice as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def _key(branch: Branch) -> str:
    return f"{branch.run.id}:{branch.id}"
