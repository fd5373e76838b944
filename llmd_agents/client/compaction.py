"""Compaction: a conversation that goes on, but no longer from all that was said before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.hints import Link

CONVERSATIONS_MAX = 8

_SHARED_MIN = 2
"""Links that a compacted conversation still has: the head, and the first message, which instructs."""


@dataclass(slots=True, eq=False)
class _Conversation:
    links: Sequence[Link]
    turns: int = 0
    step: str = ""
    superseded: bool = False


class Conversations:
    """The conversations of one branch, by the chains that its steps sent.

    A step's chain either extends a conversation or begins one. It is taken for the compacted form of the
    newest if that has been extended at least once and was answered, and the step's chain is shorter and
    begins with the same message. Where that turns out wrong, because the longer conversation goes on after
    all, nothing is taken for a compaction on this branch any more: better nothing than live context given up.
    """

    def __init__(self) -> None:
        self._newest_first: deque[_Conversation] = deque(maxlen=CONVERSATIONS_MAX)
        self._mistaken = False

    def follow(self, links: Sequence[Link], step: str, parents: Sequence[str]) -> bytes | None:
        """Takes note of a step's chain; returns the digest of the conversation that it supersedes, if any.

        Args:
            parents: the steps that had ended before this one began.
        """
        for conversation in self._newest_first:
            count = len(conversation.links)
            if count <= len(links) and conversation.links[-1].digest == links[count - 1].digest:
                self._mistaken = self._mistaken or conversation.superseded
                conversation.turns += count < len(links)
                conversation.links, conversation.step = links, step
                self._newest_first.remove(conversation)
                self._newest_first.appendleft(conversation)
                return None
        superseded = None
        newest = self._newest_first[0] if self._newest_first else None
        if (
            newest is not None
            and not self._mistaken
            and newest.turns
            and newest.step in parents
            and _is_compacted(newest.links, links)
        ):
            newest.superseded = True
            superseded = newest.links[-1].digest
        self._newest_first.appendleft(_Conversation(links, step=step))
        return superseded


def _is_compacted(long: Sequence[Link], short: Sequence[Link]) -> bool:
    if len(short) <= _SHARED_MIN or len(long) <= _SHARED_MIN:
        return False
    if short[_SHARED_MIN - 1].digest != long[_SHARED_MIN - 1].digest:
        return False
    if any(link.role == "previous" for link in short):  # the server keeps what came before
        return False
    return sum(link.size for link in short) < sum(link.size for link in long)
