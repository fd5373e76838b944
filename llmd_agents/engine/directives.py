"""What each directive does to the cache, and what is answered."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from llmd_agents.cache_index import UNKNOWN, Answer, Name, prefix_named, release, retain
from llmd_agents.hints import (
    Demote,
    Directive,
    DirectiveOutcome,
    Prefetch,
    Release,
    Result,
    Retain,
    Tier,
    Warm,
)

from .cache import PrefixCache
from .export import Boundary, Export, PeerRead
from .profile import EngineProfile
from .prompts import Prompts
from .request import EngineRequest
from .scheduler import Scheduler
from .transfers import PEER, Transfers

WARMING_MAX: Final = 64
"""Contexts that may wait to be computed unasked."""

AHEAD_SHARE: Final = 4
"""One part in so many of the device's blocks may be read ahead at once."""


class Directives:
    """Carries directives out.

    Args:
        warm: queues an internal request for a prompt.
    """

    def __init__(
        self,
        profile: EngineProfile,
        cache: PrefixCache,
        transfers: Transfers,
        scheduler: Scheduler,
        prompts: Prompts,
        warm: Callable[[EngineRequest], None],
    ) -> None:
        self.outcomes: dict[tuple[str, str], int] = {}
        """How many were answered so, by type and outcome."""
        self._profile = profile
        self._cache = cache
        self._transfers = transfers
        self._scheduler = scheduler
        self._prompts = prompts
        self._warm = warm
        self._reads = count(1)

    @property
    def supported(self) -> tuple[str, ...]:
        """The types of directives that the engine carries out."""
        lower = bool(self._cache.tiers)
        return (
            *(("retain", "release") if self._cache.follows_estimates else ()),
            *(("prefetch",) if lower or self._profile.peer_bytes_per_s else ()),
            *(("demote",) if lower else ()),
            "warm",
        )

    def carry_out(self, action_id: str, directive: Directive, now: float) -> DirectiveOutcome | PeerRead:
        answer = self._act(action_id, directive, now)
        if isinstance(answer, PeerRead):
            return answer
        return self.settled(directive.type, action_id, *answer)

    def settled(
        self, type_: str, action_id: str, result: Result, reason: str | None, tokens: int | None
    ) -> DirectiveOutcome:
        """Counts an answer, and returns it."""
        key = (type_, result)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        return DirectiveOutcome(action_id=action_id, outcome=result, reason=reason, tokens=tokens)

    def receive(self, export: Export | None, scope: str | None, digest: bytes, now: float) -> Answer:
        """Begins to copy what a peer has exported."""
        if export is None or not export.hashes:
            return "rejected", "the peer does not hold it", None
        if export.block_size != self._profile.block_size:
            return "rejected", f"the peer's blocks are of {export.block_size} tokens", None
        if export.tokens > self._profile.max_model_len:
            return "rejected", "longer than this engine's context", None
        whole = any(boundary.digest == digest for boundary in export.boundaries)
        pool, transfers = self._cache.pool, self._transfers
        indices = [
            index
            for index, block_hash in enumerate(export.hashes)
            if not pool.is_cached(block_hash) and not transfers.arrives(block_hash)
        ]
        return self._read_ahead(
            PEER,
            export.hashes,
            indices,
            export.tokens,
            None if whole else "the peer holds no more",
            now,
            boundaries=export.boundaries,
            scope=scope,
        )

    def export(self, digest: bytes, scope: str | None) -> Export | None:
        """Returns what the device and the host tier hold of a context, from its start on; None if nothing."""
        best: Export | None = None
        size = self._profile.block_size
        contexts = self._cache.contexts
        for name in contexts.named(digest, scope):
            path = contexts.path(name)
            held = 0
            while held < len(path) and self._exportable(path[held]):
                held += 1
            if held and (best is None or held > len(best.hashes)):
                tokens = name.tokens if held == len(path) else held * size
                boundaries = tuple(
                    Boundary(digest=each, tokens=end)
                    for each, end in contexts.boundaries(name)
                    if end <= tokens
                )
                best = Export(
                    block_size=size, tokens=tokens, hashes=tuple(path[:held]), boundaries=boundaries
                )
        return best

    def _act(self, action_id: str, directive: Directive, now: float) -> Answer | PeerRead:
        contexts = self._cache.contexts
        match directive:
            case Retain() | Release() if not self._cache.follows_estimates:
                return "unsupported", "this engine evicts what was least recently used", None
            case Retain():
                return retain(contexts, directive, now, self._cache.budget * self._profile.block_size)
            case Release():
                return release(contexts, directive)
            case Demote():
                return self._demote(directive)
            case Warm():
                return self._recompute(directive)
            case Prefetch(peer=None):
                return self._prefetch(directive, now)
            case Prefetch(peer=peer):
                assert peer is not None
                if not self._profile.peer_bytes_per_s:
                    return "unsupported", "this engine cannot read from peers", None
                if (there := self._on_device(directive.digest, directive.scope)) is not None:
                    return "applied", None, there.tokens
                return PeerRead(next(self._reads), action_id, peer, directive.digest, directive.scope)

    def _demote(self, directive: Demote) -> Answer:
        tier = self._tier(directive.tier)
        if tier is None:
            return "unsupported", f"this engine has no {directive.tier} tier", None
        names = self._names(directive)
        if not names:
            return "rejected", UNKNOWN, None
        contexts, size = self._cache.contexts, self._profile.block_size
        left = tokens = 0
        reason = None
        for name in names:
            keep = prefix_named(name, directive.keep)
            if directive.keep is not None and keep is None:
                return "rejected", "keep is no prefix of the context", None
            path = contexts.path(name)
            kept = keep.tokens // size if keep is not None else 0
            start = contexts.shared(name, kept)
            if start > kept:
                reason = "other context extends it"
            left += self._cache.demote(path[start:], tier)
            tokens = max(tokens, name.tokens - start * size)
        if left:
            reason, tokens = "some of it is in use", max(tokens - left * size, 0)
        return ("applied" if reason is None else "clipped"), reason, tokens

    def _recompute(self, directive: Warm) -> Answer:
        if (there := self._on_device(directive.digest, directive.scope)) is not None:
            return "applied", None, there.tokens
        request = self._prompts.find(directive.digest, directive.scope)
        if request is None:
            return "rejected", "this engine remembers no prompt with it", None
        if len(self._scheduler.behind) >= WARMING_MAX:
            return "rejected", f"{WARMING_MAX} contexts wait to be computed already", None
        self._warm(request)
        return "applied", None, dict(request.boundaries)[directive.digest]

    def _prefetch(self, directive: Prefetch, now: float) -> Answer:
        assert directive.tier is not None
        tier = self._tier(directive.tier)
        if tier is None:
            return "unsupported", f"this engine has no {directive.tier} tier", None
        names = self._names(directive)
        if not names:
            return "rejected", UNKNOWN, None
        if (there := self._on_device(directive.digest, directive.scope)) is not None:
            return "applied", None, there.tokens
        name = names[-1]
        path = self._cache.contexts.path(name)
        source = self._cache.tiers[self._cache.residency.tiers.index(tier) - 1]
        indices: list[int] = []
        end, reason = len(path), None
        for index, block_hash in enumerate(path):
            if self._cache.pool.is_cached(block_hash) or self._transfers.arrives(block_hash):
                continue
            if block_hash not in source:
                end, reason = index, f"the {tier.value} tier holds no more"
                break
            indices.append(index)
        if not indices and reason is not None:
            return "rejected", f"not in the {tier.value} tier", None
        tokens = name.tokens if end == len(path) else end * self._profile.block_size
        return self._read_ahead(tier.value, path, indices, tokens, reason, now)

    def _read_ahead(
        self,
        source: str,
        path: Sequence[bytes],
        indices: Sequence[int],
        tokens: int,
        reason: str | None,
        now: float,
        *,
        boundaries: Sequence[Boundary] = (),
        scope: str | None = None,
    ) -> Answer:
        """Begins to read blocks that no request waits for, as many as there is room for."""
        size = self._profile.block_size
        room = self._room_ahead()
        if len(indices) > room:
            reason = "reading ahead may take no more room now"
            if room <= 0:
                return "rejected", reason, None
            tokens = indices[room] * size
            indices = indices[:room]
        if indices:
            path = path[: indices[-1] + 1]
            self._transfers.begin(source, path, indices, now, boundaries=boundaries, scope=scope)
        return ("applied" if reason is None else "clipped"), reason, tokens

    def _room_ahead(self) -> int:
        """Returns how many blocks may be read ahead of any request now.

        What waiting requests need, and what is protected for them, is not touched.
        """
        pool, cache = self._cache.pool, self._cache
        size = self._profile.block_size
        share = pool.usable // AHEAD_SHARE - self._transfers.blocks_ahead
        free = pool.free - pool.protected
        for progress in self._scheduler.waiting:
            if free <= 0:
                break
            free -= -(-progress.known // size) - cache.cached_tokens(progress) // size
        return min(share, free)

    def _names(self, directive: Demote | Prefetch) -> Sequence[Name]:
        return self._cache.contexts.named(directive.digest, directive.scope)

    def _on_device(self, digest: bytes, scope: str | None) -> Name | None:
        for name in self._cache.contexts.named(digest, scope):
            if name.run.resident[0]:
                return name
        return None

    def _tier(self, name: str) -> Tier | None:
        """Returns the lower tier of that name, if the engine has it."""
        return next((tier for tier in self._cache.residency.tiers[1:] if tier.value == name), None)

    def _exportable(self, block_hash: bytes) -> bool:
        if self._cache.pool.is_cached(block_hash):
            return True
        tier = self._cache.tier_of(block_hash)
        return tier is not None and tier.tier is Tier.HOST
