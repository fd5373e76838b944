"""What became of a program's calls, and what follows from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmd_agents.engine.blocks import extend_hashes
from llmd_agents.engine.tokenizer import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.engine import RequestStats
    from llmd_agents.hints import ForkPosition


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that was answered. Times are seconds of the event loop.

    Attributes:
        branch: the branch it was made on; None outside of programs.
        fork: the position of that branch, if a fork began it (whether or not hints are sent).
        began_at: when the client sent it.
        ended_at: when the whole answer had reached the client.
        stats: as the engine counted.
        root: what the prompt's first block extends (`engine.cache_root`).
        prompt: four bytes per token, as `output`.
    """

    branch: str | None
    fork: ForkPosition | None
    engine: str
    began_at: float
    ended_at: float
    stats: RequestStats
    root: bytes
    prompt: bytes
    output: bytes


def join_stall_s(calls: Sequence[CallRecord]) -> float:
    """Returns how long, over all forks, the first branch to end had to wait for the last one."""
    ends: dict[str, dict[int, float]] = defaultdict(dict)
    for call in calls:
        if call.fork is not None:
            branches = ends[call.fork.id]
            branches[call.fork.index] = max(call.ended_at, branches.get(call.fork.index, 0.0))
    return sum((max(branches.values()) - min(branches.values()) for branches in ends.values()), 0.0)


def recomputed_tokens(calls: Sequence[CallRecord], block_size: int) -> int:
    """Returns how many prompt tokens were computed though some engine had computed them earlier.

    Only these calls are looked at: others count as sharing nothing with them. In whole blocks, and without
    the last token of a prompt, which is always computed.
    """
    computed_at: dict[bytes, float] = {}

    def note(hashes: list[bytes], at: float) -> None:
        for item in hashes:
            if at < computed_at.get(item, float("inf")):
                computed_at[item] = at

    hashed = []
    for call in calls:
        hashes = _hashes(call.root, call.prompt + call.output[:-BYTES_PER_TOKEN], block_size)
        whole = len(call.prompt) // BYTES_PER_TOKEN // block_size
        note(hashes[:whole], call.stats.first_token_s)
        note(hashes[whole:], call.stats.finish_s)
        hashed.append(hashes[: (call.stats.prompt_tokens - 1) // block_size])
    again = 0
    for call, hashes in zip(calls, hashed, strict=True):
        known = 0
        while known < len(hashes) and computed_at[hashes[known]] < call.stats.first_scheduled_s:
            known += 1
        again += max(known * block_size - call.stats.cached_tokens, 0)
    return again


def _hashes(root: bytes, tokens: bytes, block_size: int) -> list[bytes]:
    hashes: list[bytes] = []
    extend_hashes(hashes, root, tokens, block_size, len(tokens) // BYTES_PER_TOKEN // block_size)
    return hashes
