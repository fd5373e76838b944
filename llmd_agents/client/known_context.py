"""What is known of a program's context beside its text: what it was declared to be, tokens counted."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .marks import Mark, has_marks, mark_of
from .recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.hints.drafts import SegmentDraft

    from .prompt import Prompt

PROMPTS_MAX = 64
LINKS_MAX = 8192


class KnownContext:
    """Kept per program."""

    def __init__(self) -> None:
        self._prompts: Recent[bytes, Prompt] = Recent(PROMPTS_MAX)
        self._marks: Recent[bytes, Mark] = Recent(LINKS_MAX)
        self._tokens: Recent[bytes, int] = Recent(LINKS_MAX)
        self._answered: Recent[bytes, int] = Recent(LINKS_MAX)

    def prompts(self) -> list[Prompt]:
        """Returns the prompts that a new one may extend, the latest first."""
        return self._prompts.newest_first()

    def note_prompt(self, prompt: Prompt) -> None:
        """Remembers a prompt, what its new messages are marked as, and how long replies in it are. The
        messages themselves are forgotten."""
        if prompt.end:
            self._prompts.put(prompt.links[-1].digest, prompt)
        if has_marks():
            for link, item in prompt.new_items():
                if (found := mark_of(item)) is not None:
                    self._marks.put(link.digest, found)
        for before, link in pairwise(prompt.links[max(prompt.fresh - 1, 0) :]):
            if link.role == "assistant" and (tokens := self._answered.get(before.digest)) is not None:
                self._tokens.put(link.digest, tokens)
        prompt.items = ()

    def note_mark(self, digest: bytes, found: Mark) -> None:
        """Remembers what the context that ends with a link is."""
        self._marks.put(digest, found)

    def note_answer(self, digest: bytes, input_tokens: int, output_tokens: int | None) -> None:
        """Remembers how many tokens a server counted in a prompt, and in what it answered.

        Args:
            digest: of the whole prompt.
        """
        self._tokens.put(digest, input_tokens)
        if output_tokens is not None:
            self._answered.put(digest, input_tokens + output_tokens)

    def declared(self, segments: Sequence[SegmentDraft], before: bytes | None) -> tuple[SegmentDraft, ...]:
        """Returns segments with what is known of them.

        Args:
            before: the digest that the first of them extends; None at the start of a prompt.
        """
        known: list[SegmentDraft] = []
        start = 0 if before is None else self._tokens.get(before)
        for segment in segments:
            changes: dict[str, Any] = {}
            if (found := self._marks.get(segment.digest)) is not None:
                changes.update(lifetime=found.lifetime, scope=found.scope, type=found.type or segment.type)
            end = self._tokens.get(segment.digest)
            if start is not None and end is not None and end >= start:
                changes["tokens"] = end - start
            start = end
            known.append(segment._replace(**changes) if changes else segment)
        return tuple(known)
