"""What is known of a program's context beside its text: what it was declared to be, tokens counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .marks import Mark, mark_of
from .recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.hints import Segment

    from .prompt import Prompt

PROMPTS_MAX = 64
LINKS_MAX = 8192


class KnownContext:
    """Kept per program."""

    def __init__(self) -> None:
        self._prompts: Recent[bytes, Prompt] = Recent(PROMPTS_MAX)
        self._marks: Recent[bytes, Mark] = Recent(LINKS_MAX)
        self._tokens: Recent[bytes, int] = Recent(LINKS_MAX)

    def prompts(self) -> list[Prompt]:
        """Returns the prompts that a new one may extend, the latest first."""
        return self._prompts.newest_first()

    def note_prompt(self, prompt: Prompt) -> None:
        """Remembers a prompt, and what its new messages are marked as."""
        if prompt.end:
            self._prompts.put(prompt.links[-1].digest, prompt)
        for link, item in prompt.new_items():
            if (found := mark_of(item)) is not None:
                self._marks.put(link.digest, found)

    def note_mark(self, digest: bytes, found: Mark) -> None:
        """Remembers what the context that ends with a link is."""
        self._marks.put(digest, found)

    def note_tokens(self, digest: bytes, tokens: int) -> None:
        """Remembers how many tokens a server counted up to the end of a link."""
        self._tokens.put(digest, tokens)

    def note_reply(self, before: bytes, reply: bytes, tokens: int) -> None:
        """Remembers how many tokens the reply to a prompt has, now that it has a link of its own."""
        if (counted := self._tokens.get(before)) is not None:
            self._tokens.put(reply, counted + tokens)

    def declared(self, segments: Sequence[Segment], before: bytes | None) -> tuple[Segment, ...]:
        """Returns segments with what is known of them.

        Args:
            before: the digest that the first of them extends; None at the start of a prompt.
        """
        known: list[Segment] = []
        start = 0 if before is None else self._tokens.get(before)
        for segment in segments:
            changes: dict[str, object] = {}
            if (found := self._marks.get(segment.digest)) is not None:
                changes.update(lifetime=found.lifetime, scope=found.scope, type=found.type or segment.type)
            end = self._tokens.get(segment.digest)
            if start is not None and end is not None and end >= start:
                changes["tokens"] = end - start
            start = end
            known.append(segment.model_copy(update=changes) if changes else segment)
        return tuple(known)
