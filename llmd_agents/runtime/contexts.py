"""Every context the runtime has heard of, by tenant and chain digest, and which engines hold it."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llmd_agents.hints import Hints, Link, ResidencyBatch, Segment, SegmentType, Tier, segments_of

CONTEXTS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Residence:
    """How an engine holds a context.

    Attributes:
        tokens: its length in the engine's tokens; None while only predicted.
        confirmed: the engine said so itself; otherwise it follows from a request that went there.
    """

    tier: Tier = Tier.DEVICE
    tokens: int | None = None
    confirmed: bool = False


@dataclass(slots=True)
class Context:
    """The prompt prefix that a digest names.

    Attributes:
        depth: canonical bytes from the start of the prompt to the end of this segment.
        parent: digest of the context that it extends by one segment.
    """

    digest: bytes
    parent: bytes | None
    type: SegmentType
    depth: int
    holders: dict[str, Residence] = field(default_factory=dict)


class Contexts:
    """A prefix tree over digests, keyed by tenant so that no tenant can probe for another's context.

    Bounded: beyond `most` contexts the least recently used are forgotten, which costs a `resync` at worst.

    Args:
        sole_tenant: the tenant that owns whatever an engine reports, where there is only one. With several,
            an engine's report counts only for tenants whose own requests put that context there.
    """

    def __init__(self, *, sole_tenant: str | None, most: int = CONTEXTS_MAX) -> None:
        self._sole_tenant = sole_tenant
        self._most = most
        self._contexts: OrderedDict[tuple[str, bytes], Context] = OrderedDict()
        self._tenants: dict[bytes, set[str]] = {}
        self._held: dict[str, set[tuple[str, bytes]]] = {}
        self._reported: dict[str, OrderedDict[bytes, Residence]] = {}

    def __len__(self) -> int:
        return len(self._contexts)

    def get(self, tenant: str, digest: bytes) -> Context | None:
        return self._contexts.get((tenant, digest))

    def knows(self, tenant: str, hints: Hints) -> bool:
        """Returns whether the hints' context can be told from the header alone."""
        if hints.extends is None:
            return bool(hints.segments)
        return (tenant, hints.extends) in self._contexts

    def declare(self, tenant: str, extends: bytes | None, segments: Sequence[Segment]) -> bytes | None:
        """Adds a declared context; returns the digest of the whole, or None if what it extends is unknown."""
        depth = 0
        if extends is not None:
            base = self._contexts.get((tenant, extends))
            if base is None:
                return None
            depth = base.depth
        digest = extends
        for segment in segments:
            depth += segment.size
            self._put(tenant, segment.digest, digest, segment.type, depth)
            digest = segment.digest
        if digest is not None:
            self._touch(tenant, digest)
        self._forget_oldest()
        return digest

    def derive(self, tenant: str, links: Sequence[Link]) -> bytes | None:
        """Adds the context of a request whose body was read; returns the digest of the whole."""
        return self.declare(tenant, None, segments_of(links))

    def path(self, tenant: str, digest: bytes | None) -> Iterator[Context]:
        """Yields the contexts from `digest` towards the start of the prompt, as far as they are known."""
        while digest is not None and (context := self._contexts.get((tenant, digest))) is not None:
            yield context
            digest = context.parent

    def resident(self, tenant: str, digest: bytes | None) -> dict[str, Context]:
        """Returns, for each engine that holds any of it, the longest prefix of a context that it holds."""
        longest: dict[str, Context] = {}
        for context in self.path(tenant, digest):
            for engine in context.holders:
                longest.setdefault(engine, context)
        return longest

    def predict(self, tenant: str, digest: bytes | None, engine: str) -> list[bytes]:
        """Assumes that an engine that is given a prompt will hold all of it; returns what is new."""
        new: list[bytes] = []
        for context in self.path(tenant, digest):
            if engine not in context.holders:
                self._hold(tenant, context, engine, Residence())
                new.append(context.digest)
        return new

    def retract(self, tenant: str, digests: Sequence[bytes], engine: str) -> None:
        """Takes a prediction back, unless the engine has confirmed it since."""
        for digest in digests:
            context = self._contexts.get((tenant, digest))
            residence = context.holders.get(engine) if context else None
            if residence is not None and not residence.confirmed:
                self._lose(tenant, digest, engine)

    def report(self, engine: str, batch: ResidencyBatch) -> None:
        """Takes in what an engine says of its own cache."""
        if batch.snapshot or batch.cleared:
            self.clear(engine)
        reported = self._reported.setdefault(engine, OrderedDict())
        for change in batch.changes:
            tenants = self._tenants.get(change.digest, ())
            if not change.resident:
                reported.pop(change.digest, None)
                for tenant in tenants:
                    self._lose(tenant, change.digest, engine)
                continue
            residence = Residence(change.tier, change.tokens, confirmed=True)
            reported[change.digest] = residence
            for tenant in tenants:
                context = self._contexts[tenant, change.digest]
                if tenant == self._sole_tenant or engine in context.holders:
                    self._hold(tenant, context, engine, residence)
        while len(reported) > self._most:
            reported.popitem(last=False)

    def clear(self, engine: str) -> None:
        """Forgets everything that an engine held."""
        self._reported.pop(engine, None)
        for tenant, digest in list(self._held.pop(engine, ())):
            context = self._contexts.get((tenant, digest))
            if context is not None:
                context.holders.pop(engine, None)

    def _hold(self, tenant: str, context: Context, engine: str, residence: Residence) -> None:
        context.holders[engine] = residence
        self._held.setdefault(engine, set()).add((tenant, context.digest))

    def _lose(self, tenant: str, digest: bytes, engine: str) -> None:
        context = self._contexts.get((tenant, digest))
        if context is not None:
            context.holders.pop(engine, None)
        self._held.get(engine, set()).discard((tenant, digest))

    def _touch(self, tenant: str, digest: bytes) -> None:
        """Marks a context and all it extends as used, its beginning last, so that leaves go first."""
        while (context := self._contexts.get((tenant, digest))) is not None:
            self._contexts.move_to_end((tenant, digest))
            if context.parent is None:
                return
            digest = context.parent

    def _put(
        self, tenant: str, digest: bytes, parent: bytes | None, segment_type: SegmentType, depth: int
    ) -> None:
        key = (tenant, digest)
        if key in self._contexts:
            return
        context = self._contexts[key] = Context(digest, parent, segment_type, depth)
        self._tenants.setdefault(digest, set()).add(tenant)
        if tenant == self._sole_tenant:
            # An engine may have told of it before any call named it, as after a restart of the router.
            for engine, reported in self._reported.items():
                if digest in reported:
                    self._hold(tenant, context, engine, reported[digest])

    def _forget_oldest(self) -> None:
        while len(self._contexts) > self._most:
            (old_tenant, old_digest), old = self._contexts.popitem(last=False)
            for engine in old.holders:
                self._held[engine].discard((old_tenant, old_digest))
            tenants = self._tenants[old_digest]
            tenants.discard(old_tenant)
            if not tenants:
                del self._tenants[old_digest]
