"""Recorded coding-agent sessions, so small that a tiny model reads them.

A recording says which of its prompts' blocks are equal. Here each of its blocks, 64 tokens long, becomes one
syllable, about one token: equal where the recorded blocks are, so that what could be cached stays the same.
Main branches only: subagents are left out.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from llmd_agents.bench import read_coding_session
from llmd_agents.bench.coding_sessions import Turn

from .made_text import SYLLABLES

SIZE: Final = 1 / 64
LONGEST_PAUSE_S: Final = 600.0
"""Longer pauses (a night's sleep) are cut to this, before they are scaled."""

MOST_REPLY_TOKENS: Final = 16
_GOLDEN: Final = 0.6180339887498949
"""Its multiples spread over 0 to 1 evenly, and without a pattern."""


@dataclass(frozen=True)
class ScaledTurn:
    """A call: the ids of its prompt's blocks, its reply's length, the pause before it as recorded."""

    blocks: tuple[int, ...]
    reply_tokens: int
    pause_s: float


@dataclass(frozen=True)
class ScaledSession:
    """`head` counts the blocks of tools and system prompt."""

    id: str
    head: int
    turns: tuple[ScaledTurn, ...]


@dataclass(frozen=True)
class Opening:
    """A session that is open from the start on, from which turn it goes on."""

    session: ScaledSession
    first: int

    @property
    def tokens(self) -> int:
        return len(self.session.turns[self.first].blocks)


def scaled_sessions(folder: Path, longest: int) -> list[ScaledSession]:
    """Reads all sessions of a folder; each ends before its first prompt that is longer than `longest` tokens.

    Raises:
        BadTrace: if a file is no session.
    """
    sessions = [_scaled(path, longest) for path in sorted(folder.glob("*.json"))]
    return [session for session in sessions if session.turns]


def openings(sessions: Sequence[ScaledSession], seed: int, tokens: float) -> list[Opening]:
    """Draws the sessions that are open at the start: as many as hold `tokens` together."""
    order = list(sessions)
    random.Random(seed).shuffle(order)
    opened: list[Opening] = []
    while sum(one.tokens for one in opened) < tokens:
        place = len(opened)
        session = order[place % len(order)]
        opened.append(Opening(session, int((place + seed) * _GOLDEN % 1 * len(session.turns))))
    return opened


def mean_pause_s(opened: Sequence[Opening]) -> float:
    pauses = [turn.pause_s for one in opened for turn in one.session.turns[one.first + 1 :]]
    return sum(pauses) / len(pauses) if pauses else 1.0


class SessionMessages:
    """Makes the messages of one session's prompts, in their order.

    Where messages begin and end is not recorded: one ends where the head does, and where a prompt does.

    Args:
        name: keeps the text of sessions apart.
    """

    def __init__(self, name: str, session: ScaledSession) -> None:
        self._name = name
        self._ends = {session.turns[0].blocks[: session.head][-1]} if session.head else set[int]()

    def said(self, blocks: Sequence[int]) -> None:
        """Takes note of a prompt that was sent before anything here began."""
        self._ends.add(blocks[-1])

    def messages(self, blocks: Sequence[int]) -> list[dict[str, Any]]:
        self.said(blocks)
        parts = list(_split(blocks, self._ends))
        return [
            {"role": "user" if index else "system", "content": " ".join(map(self._syllable, part))}
            for index, part in enumerate(parts)
        ]

    def _syllable(self, block: int) -> str:
        return SYLLABLES[xxh3_64_intdigest(f"{self._name}/{block}".encode()) % len(SYLLABLES)]


def _split(blocks: Sequence[int], ends: set[int]) -> Iterator[Sequence[int]]:
    start = 0
    for index, block in enumerate(blocks, 1):
        if block in ends:
            yield blocks[start:index]
            start = index


def _scaled(path: Path, longest: int) -> ScaledSession:
    session = read_coding_session(path)
    turns: list[ScaledTurn] = []
    for turn in session.events:
        if not isinstance(turn, Turn) or not turn.blocks:
            continue
        if len(turn.blocks) > longest:
            break
        reply = min(max(round(turn.output_tokens * SIZE), 1), MOST_REPLY_TOKENS)
        turns.append(ScaledTurn(turn.blocks, reply, min(turn.gap_s, LONGEST_PAUSE_S)))
    return ScaledSession(session.id, session.head_tokens // session.block_size, tuple(turns))
