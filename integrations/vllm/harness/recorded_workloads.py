"""Recorded workloads as prompts of token ids, scaled down to what a tiny model reads.

A recording says which blocks of its prompts are equal; here each of its blocks becomes a few tokens, equal
exactly where the recorded blocks are. What a prompt adds to an earlier one begins with the model's real reply
to that one, as in any conversation.
"""

import heapq
import json
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

from llmd_agents.bench import read_coding_session

from .tiny_model import VOCABULARY

MOST_REPLY_TOKENS: Final = 48

_SPECIAL_TOKENS: Final = 3


@dataclass(frozen=True)
class Call:
    """A prompt, as token ids, and how many tokens its reply has."""

    prompt: tuple[int, ...]
    reply_tokens: int


Workload: TypeAlias = Generator[Call, Sequence[int], None]
"""Yields calls, and is sent the token ids of each one's reply."""


def coding_sessions(paths: Iterable[Path], calls: int, *, block_tokens: int) -> Workload:
    """Coding sessions that start together, call by call as they would arrive if a call took no time.

    Args:
        calls: so many of them, from the first on.
        block_tokens: what each block of 64 tokens becomes.
    """
    timed = []
    sessions = [read_coding_session(path) for path in paths]
    for session in sessions:
        arrivals: list[tuple[float, _Recorded]] = []
        at = 0.0
        for turn in session.turns():
            at += turn.gap_s
            blocks = tuple((session.id, block) for block in turn.blocks)
            arrivals.append((at, _Recorded(blocks, turn.output_tokens)))
        timed.append(arrivals)
    merged = heapq.merge(*timed, key=lambda arrival: arrival[0])
    recorded = [one for _, one in merged]
    return _scaled(sessions[0].block_size, block_tokens, recorded[:calls])


def conversations(path: Path, count: int, *, block_tokens: int) -> Workload:
    """Conversations of a chat service, call by call as they arrived; all begin with the same block.

    Args:
        count: so many of those that go on for at least three calls, from the first on.
        block_tokens: what each block of 512 tokens becomes.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = Counter(row["hash_ids"][1] for row in rows if len(row["hash_ids"]) > 1)
    chosen = set(islice((name for name, calls in names.items() if calls >= 3), count))
    recorded = [
        _Recorded(tuple((path.stem, block) for block in row["hash_ids"]), row["output_length"])
        for row in rows
        if chosen.intersection(row["hash_ids"][1:2])
    ]
    return _scaled(512, block_tokens, recorded)


def programs(
    paths: Iterable[Path], runs: int, part: float, tokens: Callable[[list[dict[str, Any]]], list[int]]
) -> Workload:
    """Small agent programs, each run several times in a row.

    Args:
        part: how much of each recorded message is taken, from its start on.
        tokens: makes token ids of messages.
    """
    for path in paths:
        spans = [span["attributes"] for span in json.loads(path.read_text())["spans"]]
        for span in spans * runs:
            messages = json.loads(span["gen_ai.input.messages"])
            for message in messages:
                message["content"] = message["content"][: int(len(message["content"]) * part)]
            length = len(span["gen_ai.output.text"]) // 16
            yield Call(tuple(tokens(messages)), max(min(length, MOST_REPLY_TOKENS), 1))


@dataclass(frozen=True)
class _Recorded:
    blocks: tuple[tuple[str, int], ...]
    output_tokens: int


def _scaled(block_size: int, block_tokens: int, recorded: Sequence[_Recorded]) -> Workload:
    content: dict[tuple[str, int], tuple[int, ...]] = {}
    replies: dict[tuple[str, int], Sequence[int]] = {}
    for one in recorded:
        reply: Sequence[int] = ()
        prompt: list[int] = []
        for before, block in zip((None, *one.blocks), one.blocks, strict=False):
            if block not in content:
                if before in replies:
                    reply = replies[before]
                own = random.Random(f"{block}").choices(range(_SPECIAL_TOKENS, VOCABULARY), k=block_tokens)
                content[block] = (*reply[:block_tokens], *own)[:block_tokens]
                reply = reply[block_tokens:]
            prompt += content[block]
        length = one.output_tokens * block_tokens // block_size
        # A block names all that precedes it, so that the last one stands for the prompt.
        replies[one.blocks[-1]] = yield Call(tuple(prompt), max(min(length, MOST_REPLY_TOKENS), 1))
