"""Every context that a tenant's calls have named, by chain digest, and which engines hold it."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from llmd_agents.hints import (
    Hints,
    Lifetime,
    Link,
    ResidencyBatch,
    Scope,
    Segment,
    SegmentType,
    Tier,
    segments_of,
)

CONTEXTS_MAX = 200_000
BYTES_PER_TOKEN = 4

_DEVICE: Final = Tier.DEVICE.value


@dataclass(slots=True)
class Residence:
    """How an engine holds a context.

    Attributes:
        tiers: length in the engine's tokens, for each tier that it is resident in
            (`hints.ResidencyChange`); None while only predicted.
        used: when it was last known to be used there, on a count of uses.
        certain: the engine said so, or has answered a call with this context; else it is a prediction.
    """

    tiers: dict[str, int | None]
    used: int
    certain: bool = False


@dataclass(slots=True)
class Context:
    """The prompt prefix that a digest names.

    Attributes:
        depth: canonical bytes from the start of the prompt to the end of this segment.
        parent: digest of the context that it extends by one segment.
        shared: other programs may meet it too, so that no program's end makes it dead.
        users: ends of branches that live and include it.
    """

    digest: bytes
    parent: bytes | None
    type: SegmentType
    depth: int
    shared: bool = False
    users: int = 0
    holders: dict[str, Residence] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Its length: as an engine counted it, else four bytes to a token."""
        for residence in self.holders.values():
            for tokens in residence.tiers.values():
                if tokens is not None:
                    return tokens
        return self.depth // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Holdings:
    """What engines hold of a context, as one walk along its path found it.

    Attributes:
        path: the contexts from its end towards the start of the prompt, as far as they are known.
        resident: for each engine that holds any of it, the longest prefix of a context that it holds; in the
            order of their lengths, the longest first.
        certain: the same of what engines are known to hold.
        on_device: for each engine, how many bytes of it are on the device.
    """

    path: list[Context]
    resident: dict[str, Context]
    certain: dict[str, Context]
    on_device: dict[str, int]

    def parts(self) -> list[tuple[bytes, int]]:
        """Returns the contexts on the path, each with the bytes that it adds to the next."""
        ends = [context.depth for context in self.path[1:]] + [0]
        return [(context.digest, context.depth - end) for context, end in zip(self.path, ends, strict=False)]


class Contexts:
    """One tenant's contexts: a prefix tree over digests.

    Bounded: beyond `most` contexts the least recently used are forgotten, ends before beginnings. A chain
    whose beginning is gone is known from there on, which costs a `resync` at worst.
    """

    def __init__(self, *, most: int = CONTEXTS_MAX) -> None:
        self._most = most
        self._contexts: OrderedDict[bytes, Context] = OrderedDict()
        # What each engine holds of them, least recently used first, and what it has told of others.
        self._held: dict[str, OrderedDict[bytes, None]] = {}
        self._reported: dict[str, OrderedDict[bytes, dict[str, int | None]]] = {}
        self._uses = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def get(self, digest: bytes) -> Context | None:
        return self._contexts.get(digest)

    def knows(self, hints: Hints) -> bool:
        """Returns whether the hints' context can be told from the header alone."""
        return bool(hints.segments) if hints.extends is None else hints.extends in self._contexts

    # --- what calls tell

    def declare(self, extends: bytes | None, segments: Sequence[Segment]) -> bytes | None:
        """Adds a declared context; returns the digest of the whole, or None if what it extends is unknown."""
        depth = 0
        if extends is not None:
            base = self._contexts.get(extends)
            if base is None:
                return None
            depth = base.depth
        digest = extends
        for segment in segments:
            # Of what is known already the depth is too: lineage stands for more than its own few bytes.
            depth = self._put(segment, digest, depth + segment.size)
            digest = segment.digest
        # The beginning is marked as used last, so that ends are forgotten first.
        for context in self.path(digest):
            self._contexts.move_to_end(context.digest)
        self._forget_oldest()
        return digest

    def derive(self, links: Sequence[Link]) -> bytes | None:
        """Adds the context of a request whose body was read; returns the digest of the whole."""
        return self.declare(None, segments_of(links))

    def path(self, digest: bytes | None) -> list[Context]:
        """Returns the contexts from `digest` towards the start of the prompt, as far as they are known."""
        path: list[Context] = []
        known = self._contexts.get
        depth = math.inf
        while digest is not None and (context := known(digest)) is not None:
            # Depths fall on every honest path; forged digests and sizes must not make it a circle.
            if context.depth >= depth:
                break
            path.append(context)
            depth = context.depth
            digest = context.parent
        return path

    # --- what is alive

    def use(self, digest: bytes | None) -> tuple[bytes, ...]:
        """Counts the end of a live branch in, on its whole path; returns what to give to `leave`."""
        path = self.path(digest)
        for context in path:
            context.users += 1
        return tuple(context.digest for context in path)

    def leave(self, path: Sequence[bytes]) -> None:
        """Takes back a `use`."""
        for digest in path:
            context = self._contexts.get(digest)
            if context is not None and context.users:
                context.users -= 1

    def dead_part(self, path: Sequence[bytes]) -> tuple[list[Context], bytes | None]:
        """Returns the contexts at the end of a path that nobody uses, deepest first, and what lives on."""
        dead: list[Context] = []
        for digest in path:
            context = self._contexts.get(digest)
            if context is None:
                continue
            if context.users or context.shared:
                return dead, digest
            dead.append(context)
        return dead, None

    # --- what engines hold

    def holdings(self, digest: bytes | None) -> Holdings:
        """Returns a context's path and what engines hold of it."""
        path = self.path(digest)
        resident: dict[str, Context] = {}
        certain: dict[str, Context] = {}
        on_device: dict[str, int] = {}
        holders = len(self._held)
        for context in path:
            for engine, residence in context.holders.items():
                resident.setdefault(engine, context)
                if residence.certain:
                    certain.setdefault(engine, context)
                if engine not in on_device and _DEVICE in residence.tiers:
                    on_device[engine] = context.depth
            if len(certain) == len(on_device) == holders:
                break  # what follows is shorter, and all that hold anything are found
        return Holdings(path, resident, certain, on_device)

    def resident(self, digest: bytes | None) -> dict[str, Context]:
        """Returns, for each engine that holds any of it, the longest prefix of a context that it holds."""
        return self.holdings(digest).resident

    def predict(self, digest: bytes | None, engine: str) -> list[bytes]:
        """Assumes that an engine will hold all of a context; returns what is new."""
        return self.sent(self.path(digest), engine)[1]

    def sent(self, path: Sequence[Context], engine: str) -> tuple[list[tuple[int, int]], list[bytes]]:
        """Assumes that an engine that is sent a prompt will hold all of it.

        Returns:
            What it was believed to hold before, as (depth, last use) of each prefix, deepest first; and the
            digests of what is new.
        """
        believed: list[tuple[int, int]] = []
        new: list[Context] = []
        for context in path:
            residence = context.holders.get(engine)
            if residence is None:
                new.append(context)
            else:
                believed.append((context.depth, residence.used))
        for context in new:
            self._hold(context, engine, {_DEVICE: None}, certain=False)
        return believed, [context.digest for context in new]

    def settle(self, digest: bytes | None, engine: str) -> None:
        """Notes that an engine has computed a prompt, so that it holds all of it, its beginning used last."""
        for context in self.path(digest):
            residence = context.holders.get(engine)
            self._hold(context, engine, residence.tiers if residence else {_DEVICE: None}, certain=True)

    def retract(self, digests: Sequence[bytes], engine: str) -> None:
        """Takes predictions back that have not become certain since."""
        for digest in digests:
            context = self._contexts.get(digest)
            residence = context.holders.get(engine) if context else None
            if residence is not None and not residence.certain:
                self._lose(digest, engine)

    def give_up(self, engine: str, until: int) -> None:
        """Gives up all that an engine was last known to use at `until` or before.

        For engines that do not tell what they hold: when a context turns out to be gone, least-recently-used
        eviction has taken whatever was used earlier as well.
        """
        held = self._held.get(engine, OrderedDict())
        while held:
            digest = next(iter(held))
            context = self._contexts[digest]
            if context.holders[engine].used > until:
                return
            self._lose(digest, engine)

    def report(self, engine: str, batch: ResidencyBatch, scope: str | None) -> None:
        """Takes in what an engine says of its cache: of this tenant's scope, or of all where it is None."""
        if batch.snapshot or batch.cleared:
            self.clear(engine)
        reported = self._reported.setdefault(engine, OrderedDict())
        for change in batch.changes:
            if scope is not None and change.scope != scope:
                continue
            tiers = reported.setdefault(change.digest, {})
            if change.resident:
                tiers[change.tier] = change.tokens
            else:
                tiers.pop(change.tier, None)
            context = self._contexts.get(change.digest)
            if tiers:
                if context is not None:
                    self._hold(context, engine, tiers, certain=True)
                continue
            del reported[change.digest]
            self._lose(change.digest, engine)
        while len(reported) > self._most:
            reported.popitem(last=False)

    def clear(self, engine: str) -> None:
        """Forgets everything that an engine held."""
        self._reported.pop(engine, None)
        for digest in self._held.pop(engine, ()):
            self._contexts[digest].holders.pop(engine, None)

    # --- inside

    def _hold(self, context: Context, engine: str, tiers: dict[str, int | None], *, certain: bool) -> None:
        self._uses += 1
        residence = context.holders.get(engine)
        if residence is None:
            context.holders[engine] = Residence(tiers, self._uses, certain)
        else:
            residence.tiers, residence.used, residence.certain = tiers, self._uses, certain
        held = self._held.get(engine)
        if held is None:
            held = self._held[engine] = OrderedDict()
        held[context.digest] = None
        held.move_to_end(context.digest)

    def _lose(self, digest: bytes, engine: str) -> None:
        context = self._contexts.get(digest)
        if context is not None:
            context.holders.pop(engine, None)
        self._held.get(engine, OrderedDict()).pop(digest, None)

    def _put(self, segment: Segment, parent: bytes | None, depth: int) -> int:
        """Adds a context, if it is not known, and returns its depth."""
        digest = segment.digest
        context = self._contexts.get(digest)
        if context is not None:
            self._refine(context, parent)
            return context.depth
        shared = segment.effective_scope is Scope.TENANT or segment.effective_lifetime is Lifetime.PERSISTENT
        context = self._contexts[digest] = Context(digest, parent, segment.type, depth, shared)
        # An engine may have told of it before any call named it, as after a restart of the router.
        for engine, reported in self._reported.items():
            if digest in reported:
                self._hold(context, engine, reported[digest], certain=True)
        return depth

    def _refine(self, context: Context, parent: bytes | None) -> None:
        """Prefers the nearer of two parents: a declaration with merged segments names only the farther."""
        nearer = self._contexts.get(parent) if parent is not None else None
        present = self._contexts.get(context.parent) if context.parent is not None else None
        farthest = present.depth if present is not None else -1
        if nearer is not None and farthest < nearer.depth < context.depth:
            context.parent = parent

    def _forget_oldest(self) -> None:
        while len(self._contexts) > self._most:
            digest, context = self._contexts.popitem(last=False)
            for engine in context.holders:
                self._held[engine].pop(digest, None)
