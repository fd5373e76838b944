"""The prompt-cache linter beside running programs: a warning where a prompt stops extending the last one."""

from __future__ import annotations

import os
import sys
import warnings
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from llmd_agents.hints import UNDECLARED

from .guard import guard
from .quiet import faults

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from llmd_agents.hints import Link
    from llmd_agents.linter import PrefixWatch, Prices

    from .branch import Branch
    from .steps import PendingStep


_BELOW_APPLICATION = frozenset(("llmd_agents", "httpx", "httpx2", "openai", "contextlib"))


READ_SHARE = 0.25
"""How much of what a branch sends is read again to explain divergences, once there have been a few."""


BODY_BYTES_MIN = 4096
"""Shorter bodies are not looked at: about 1,000 tokens is the shortest prefix that providers cache."""

LATEST_BYTES = 32 << 20
"""Memory for the bodies that were sent last, in bytes."""


class _Sent(NamedTuple):
    content: bytes
    links: Sequence[Link]
    watched: bool = False


class _Latest:
    """The body that each branch sent last; beyond a number of bytes, those sent longest ago are forgotten."""

    def __init__(self) -> None:
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> _Sent | None:
        return self._sent.get(key)

    def put(self, key: str, sent: _Sent) -> None:
        """Puts a body in the place of the one before."""
        with guard:
            self._take(key)
            self._sent[key] = sent
            self._bytes += len(sent.content)
            while self._bytes > LATEST_BYTES:
                self._bytes -= len(self._sent.popitem(last=False)[1].content)

    def forget(self, key: str) -> None:
        with guard:
            self._take(key)

    def _take(self, key: str) -> None:
        if (sent := self._sent.pop(key, None)) is not None:
            self._bytes -= len(sent.content)


class LiveLint:
    """One for all programs of the process, so that what it remembers is bounded however many run at once."""

    def __init__(self) -> None:
        # Imported with the first call: who only imports the client does not wait for it.
        from llmd_agents import linter

        self._linter = linter
        self._watch: PrefixWatch = linter.PrefixWatch(read_share=READ_SHARE)
        self._latest = _Latest()
        self._findings = linter.Findings()

    def compare(self, pending: PendingStep, content: bytes) -> None:
        """Compares a request with what its branch sent before; warns once per cause."""
        key, links = _key(pending.branch), pending.prompt.links
        self._linter.feed(key, content, links)
        if len(content) < BODY_BYTES_MIN:
            return
        before = self._latest.get(key)
        grown = before is not None and pending.prompt.grown_from == before.links[-1].digest
        self._latest.put(key, _Sent(content, links, watched=not grown))
        if grown:
            return  # nothing of it has changed: it is looked at when something does
        if before is not None and not before.watched:
            self._watch.observe(key, before.content, before.links)
        found = self._watch.observe(key, content, links)
        if isinstance(found, self._linter.Divergence):
            pending.record.divergence = found
            if self._findings.add(found):
                message = self._linter.live_message(found, self._prices())
                _warn(message, self._linter.PrefixWarning)

    def learn(self, pending: PendingStep) -> None:
        """Learns from an answer how many bytes a token has."""
        if pending.record.input_tokens is not None:
            self._watch.learn(pending.record.prompt_bytes, pending.record.input_tokens)

    def forget(self, branch: Branch) -> None:
        """Frees what is remembered of a branch that has ended."""
        if not _shares_key(branch) or branch.run.finished:
            self._watch.forget(_key(branch))
            self._latest.forget(_key(branch))

    def _prices(self) -> Prices | None:
        try:
            return self._linter.prices_from_environment()
        except self._linter.BadPrice as error:
            _warn(str(error), UserWarning)
            return None


@cache
def _live() -> LiveLint:
    return LiveLint()


if hasattr(os, "register_at_fork"):
    # The parent's lock may be held by a thread that the child does not have.
    os.register_at_fork(after_in_child=_live.cache_clear)


def lint(pending: PendingStep, content: bytes) -> None:
    """Looks at a request that is about to be sent."""
    with faults("a prompt was not compared with the one before"):
        _live().compare(pending, content)


def learn(pending: PendingStep) -> None:
    """Looks at a step that was answered."""
    if pending.record.prompt_bytes < BODY_BYTES_MIN:
        return
    with faults("the length of tokens was not learned"):
        _live().learn(pending)


def forget(branch: Branch) -> None:
    """Takes note that a branch has ended."""
    if branch.trail.newest is not None:
        _live().forget(branch)


def _warn(message: str, category: type[Warning]) -> None:
    """Warns at the line of the application that made the call."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BELOW_APPLICATION:
        frame = frame.f_back
    if frame is None:
        warnings.warn(message, category, stacklevel=2)
    else:
        name = frame.f_globals.get("__name__", "")
        warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, name)


def _key(branch: Branch) -> str:
    return branch.run.id if _shares_key(branch) else f"{branch.run.id}:{branch.id}"


def _shares_key(branch: Branch) -> bool:
    # Where nothing is declared the prompts tell branches apart: one that parts from its branch is on another.
    return branch.run.declared.name == UNDECLARED
