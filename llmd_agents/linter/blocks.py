"""Recordings without text: prompts as ids of their cache blocks, an equal id for an equal prefix."""

from __future__ import annotations

from .compare import BYTES_PER_TOKEN
from .divergence import Cause, Compaction, Divergence


def compare_blocks(
    earlier: tuple[int, ...], later: tuple[int, ...], *, block_size: int, branch: str, model: str
) -> Divergence | Compaction | None:
    """Compares two prompts of one conversation by their full blocks; bytes are told at 4 per token.

    What a recording without text cannot tell is why. A prompt that lost blocks and became shorter is taken
    for a compaction. One block lost at the end is no finding: the end of a prompt, where the model's turn
    begins, is not a part of the next one.
    """
    shared = 0
    for one, other in zip(earlier, later, strict=False):
        if one != other:
            break
        shared += 1
    gone = len(earlier) - shared
    if gone <= 1 or shared == len(later):
        return None
    kept = round(shared * block_size * BYTES_PER_TOKEN)
    if len(later) < len(earlier):
        dropped = round(gone * block_size * BYTES_PER_TOKEN)
        return Compaction(branch, model, len(earlier), len(later), kept, dropped)
    tokens = gone * block_size
    return Divergence(
        branch=branch,
        model=model,
        cause=Cause.UNKNOWN,
        message=None,
        role="prompt",
        field="prompt",
        byte=0,
        what="the prompt changed there (the recording has no text)",
        kept_bytes=kept,
        lost_bytes=round(tokens * BYTES_PER_TOKEN),
        lost_tokens=tokens,
        token=shared * block_size,
    )
