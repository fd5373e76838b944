"""From chains of context to blocks of tokens: which blocks of recorded prompts are equal.

A recording tells the digest and the bytes of each stretch of context, and the tokens of whole prompts. Where
a stretch ends in tokens is decided once, when it is first seen: new tokens are shared out by size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_SIZE = 16
"""Tokens, as vLLM's default."""

_LEAST = 3
"""Tokens of the shortest message: one before and one after what it says."""

_FRAME_BYTES = 30
"""Bytes of a message's canonical form beside what it says: `{"content":"","role":"user"}` and the like."""


@dataclass(slots=True, eq=False)
class _Stretch:
    """A stretch of context and what stands before it; `end` is in tokens."""

    number: int
    before: _Stretch | None
    end: int


class PromptBlocks:
    """Knows the prompts of one recording. Read them in the order in which they were sent."""

    def __init__(self) -> None:
        self._known: dict[str, _Stretch] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._stretches = 0

    def read(
        self, extends: str | None, links: Sequence[tuple[str, int]], tokens: int
    ) -> tuple[int, tuple[int, ...]]:
        """Returns a prompt's length and the ids of its full blocks.

        Args:
            extends: digest of the context that `links` continue.
            links: digest and bytes of each further stretch.
            tokens: length of the whole prompt as it was counted.
        """
        last = self._known.get(extends) if extends is not None else None
        if last is None and extends is not None:
            # Its spans are missing. How long it was shows in the bytes only roughly.
            links = [(extends, 1), *links]
        new = list(links)
        while new and new[0][0] in self._known:
            last = self._known[new.pop(0)[0]]
        if new:
            last = self._add(last, new, tokens)
        if last is None:
            last = self._add(None, [("", 1)], tokens)
        return last.end, self._blocks(last)

    def _add(self, last: _Stretch | None, new: Sequence[tuple[str, int]], tokens: int) -> _Stretch:
        begin = last.end if last is not None else 0
        left = max(tokens - begin, _LEAST * len(new)) - _LEAST * len(new)
        said = [max(size - _FRAME_BYTES, 1) for _, size in new]
        before = 0
        for index, ((name, _), own) in enumerate(zip(new, said, strict=True), 1):
            before += own
            end = begin + _LEAST * index + left * before // sum(said)
            self._stretches += 1
            last = self._known[name] = _Stretch(self._stretches, last, end)
        assert last is not None
        return last

    def _blocks(self, last: _Stretch) -> tuple[int, ...]:
        blocks: list[int] = []
        at: _Stretch | None = last
        index = last.end // BLOCK_SIZE - 1
        while index >= 0 and at is not None:
            # A block is named by the stretch that it ends in: with it all that stands before is given.
            while at.before is not None and (index + 1) * BLOCK_SIZE <= at.before.end:
                at = at.before
            blocks.append(self._ids.setdefault((at.number, index), len(self._ids)))
            index -= 1
        return tuple(reversed(blocks))
