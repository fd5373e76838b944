"""Where the links of a chain end in a prompt, in tokens.

Chat templates are not additive, so that rendering a part of the messages does not give a prefix of the whole.
What the engine did gives the ends instead: two prompts that have a link in common share the blocks up to its
end, so that the overlap of their block hashes bounds it. Of a link that no other prompt has had, all that is
known is its share of the bytes.
"""

from collections.abc import Sequence
from typing import Final

from llmd_agents.cache_index import Contexts, Run

NAMES_MAX: Final = 8
"""Of what one digest has stood for, the newest are looked at."""

LINKS_PER_BLOCK_MAX: Final = 64
"""Of the links that end within one block, the newest count: no template gets more messages into one."""


def boundaries(
    links: Sequence[tuple[bytes, int]],
    prompt_tokens: int,
    hashes: Sequence[bytes],
    contexts: Contexts,
    scope: str | None,
    block_size: int,
) -> tuple[tuple[bytes, int], ...]:
    """Returns the links of a prompt as (digest, tokens from its start), ascending.

    Args:
        links: (digest, canonical bytes of the context up to it), ascending.
        hashes: of the prompt's full blocks.
        contexts: what earlier prompts have taught.
    """
    if not links or prompt_tokens <= 0:
        return ()
    shared: dict[Run, int] = {}
    ends: list[int | None] = [
        _known(digest, hashes, contexts, scope, block_size, shared) for digest, _ in links
    ]
    # The whole prompt ends where it ends, whatever else the last link has stood for.
    ends[-1] = prompt_tokens
    found: list[tuple[bytes, int]] = []
    from_bytes = from_tokens = following = 0
    for index, (digest, size) in enumerate(links):
        end = ends[index]
        if end is None:
            if following <= index:
                following = next(at for at in range(index + 1, len(links)) if ends[at] is not None)
            to_bytes, to_tokens = links[following][1], ends[following]
            assert to_tokens is not None
            share = (size - from_bytes) / max(to_bytes - from_bytes, 1)
            end = from_tokens + int(share * max(to_tokens - from_tokens, 0))
        end = min(max(end, from_tokens), prompt_tokens)
        found.append((digest, end))
        from_bytes, from_tokens = size, end
    return tuple(
        link
        for index, link in enumerate(found)
        if index + LINKS_PER_BLOCK_MAX >= len(found)
        or found[index + LINKS_PER_BLOCK_MAX][1] // block_size > link[1] // block_size
    )


def _known(
    digest: bytes,
    hashes: Sequence[bytes],
    contexts: Contexts,
    scope: str | None,
    block_size: int,
    known: dict[Run, int],
) -> int | None:
    """Returns the least end that overlaps with earlier prompts allow; None for a digest that is new."""
    least: int | None = None
    for name in contexts.named(digest, scope)[-NAMES_MAX:]:
        shared = contexts.shared_blocks(name, hashes, known)
        whole = shared == name.run.end
        end = name.tokens if whole else shared * block_size
        if least is None or end < least:
            least = end
    return least
