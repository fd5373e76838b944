"""Which chain digests the cache holds whole: the mapping from digests to blocks.

A digest is resident while all full blocks before its end are cached; a digest that ends within the first
block is never reported. It is found resident when a request that names it has those blocks, and gone when the
last block with one of those hashes is given up.

Simplification: a digest that went because of a block before its own range is reported again only when a
request uses it, although its own blocks may have stayed and what precedes them may have returned sooner.

One digest may stand for several runs of blocks; it is resident in a scope while one run of that scope is.
Memory is bounded by the blocks: what is known of a digest goes with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmd_agents.hints import ResidencyChange

from .request import Progress


@dataclass(slots=True, eq=False)
class _Node:
    """A digest over one run of blocks; its own range is `blocks`, those after its parent's last."""

    digest: bytes
    scope: str | None
    tokens: int
    blocks: Sequence[bytes]
    key: tuple[bytes, bytes]
    parent: "_Node | None"
    children: "dict[_Node, None]" = field(default_factory=dict)


class Residency:
    """Tracks residency for one pool; every change is returned once, by `take_changes`."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._nodes: dict[tuple[bytes, bytes], _Node] = {}
        self._owners: dict[bytes, tuple[_Node, ...]] = {}
        self._runs: dict[tuple[bytes, str | None], int] = {}
        self._changes: list[ResidencyChange] = []

    def reached(self, progress: Progress) -> None:
        """Notes the boundaries that the request's registered blocks have come to cover.

        To be called whenever `registered` has grown, in particular when a prefix was hit.
        """
        boundaries = progress.request.boundaries
        hashes, registered = progress.hashes, progress.registered
        parent: _Node | None = None
        start = 0
        index = progress.boundary
        if index > 0:
            digest, tokens = boundaries[index - 1]
            start = tokens // self._block_size
            parent = self._nodes[digest, hashes[start - 1]] if start else None
        while index < len(boundaries):
            digest, tokens = boundaries[index]
            end = tokens // self._block_size
            if end > registered:
                break
            if end:
                key = (digest, hashes[end - 1])
                parent = self._nodes.get(key) or self._add(
                    key, progress.request.scope, tokens, hashes[start:end], parent
                )
            start = end
            index += 1
        progress.boundary = index

    def evicted(self, block_hash: bytes) -> None:
        """Drops every digest whose own range holds this block, and all that extend it."""
        dropped = list(self._owners.get(block_hash, ()))
        while dropped:
            node = dropped.pop()
            if self._nodes.pop(node.key, None) is None:
                continue  # reached before, through its parent
            for owned in node.blocks:
                others = tuple(other for other in self._owners[owned] if other is not node)
                if others:
                    self._owners[owned] = others
                else:
                    del self._owners[owned]
            if node.parent is not None:
                node.parent.children.pop(node, None)
            dropped += node.children
            run = (node.digest, node.scope)
            runs = self._runs.pop(run) - 1
            if runs:
                self._runs[run] = runs
            else:
                self._note(node, resident=False)

    def clear(self) -> None:
        """Forgets everything, changes not taken included: the cache was reset."""
        self._nodes.clear()
        self._owners.clear()
        self._runs.clear()
        self._changes.clear()

    def take_changes(self) -> tuple[ResidencyChange, ...]:
        """Returns the changes since the last call, in order."""
        if not self._changes:
            return ()
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def snapshot(self) -> tuple[ResidencyChange, ...]:
        """Returns everything that is resident, each digest once."""
        tokens = {(node.digest, node.scope): node.tokens for node in self._nodes.values()}
        return tuple(
            ResidencyChange(digest=digest, scope=scope, tokens=count, resident=True)
            for (digest, scope), count in tokens.items()
        )

    def _add(
        self,
        key: tuple[bytes, bytes],
        scope: str | None,
        tokens: int,
        blocks: Sequence[bytes],
        parent: _Node | None,
    ) -> _Node:
        node = _Node(key[0], scope, tokens, blocks, key, parent)
        self._nodes[key] = node
        alone = (node,)
        owners = self._owners
        for block_hash in blocks:
            owners[block_hash] = (*owners[block_hash], node) if block_hash in owners else alone
        if parent is not None:
            parent.children[node] = None
        run = (node.digest, scope)
        runs = self._runs.get(run, 0)
        self._runs[run] = runs + 1
        if not runs:
            self._note(node, resident=True)
        return node

    def _note(self, node: _Node, *, resident: bool) -> None:
        self._changes.append(
            ResidencyChange(digest=node.digest, scope=node.scope, tokens=node.tokens, resident=resident)
        )
