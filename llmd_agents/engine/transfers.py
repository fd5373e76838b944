"""Blocks on their way to the device: from a lower tier, or from a peer.

A transfer takes device blocks, which nobody can hit until it ends: after a latency, and its bytes at the rate
of its link. Transfers over one link (host, storage, peer) run one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .cache import PrefixCache
from .eviction import Block
from .export import Boundary
from .profile import EngineProfile
from .records import Listener, Loaded, Loading
from .request import Progress

HOST: Final = "host"
STORAGE: Final = "storage"
PEER: Final = "peer"
DEVICE: Final = "device"


@dataclass(slots=True, eq=False)
class Transfer:
    """Blocks that are being read.

    Attributes:
        source: host, storage or peer.
        path: hashes of a prompt's blocks, from its first to the last that is read.
        indices: which of them are read.
        blocks: the device blocks that they fill.
        held: cached blocks pinned until the end, which the waiting request will hit.
        ends_s: modelled seconds.
        ahead: no request waits for it yet.
        waiters: the requests that do.
        boundaries: digests to be known with it, and their scope.
    """

    source: str
    path: Sequence[bytes]
    indices: Sequence[int]
    blocks: list[Block]
    held: list[Block]
    ends_s: float
    ahead: bool
    waiters: list[Progress] = field(default_factory=list)
    boundaries: Sequence[Boundary] = ()
    scope: str | None = None


@dataclass(slots=True)
class _Stretch:
    """Consecutive blocks of a prompt, by what they would come from."""

    source: str
    under_way: Transfer | None
    indices: list[int]


class Transfers:
    """Starts and ends transfers, and decides whether a request had better wait for one."""

    def __init__(self, profile: EngineProfile, cache: PrefixCache, listener: Listener | None) -> None:
        self.bytes_by_source = {HOST: 0, STORAGE: 0, PEER: 0}
        self._profile = profile
        self._cache = cache
        self._listener = listener
        self._rates = {
            HOST: profile.host_bytes_per_s,
            STORAGE: profile.storage_bytes_per_s,
            PEER: profile.peer_bytes_per_s,
        }
        self._free_at = dict.fromkeys(self._rates, 0.0)
        self._under_way: list[Transfer] = []
        self._arriving: dict[bytes, Transfer] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def next_end(self) -> float | None:
        """Modelled time at which the next one ends."""
        return min((transfer.ends_s for transfer in self._under_way), default=None)

    @property
    def blocks_ahead(self) -> int:
        """Device blocks that transfers take which no request waits for."""
        return sum(len(transfer.blocks) for transfer in self._under_way if transfer.ahead)

    def arrives(self, block_hash: bytes) -> bool:
        return block_hash in self._arriving

    def fetch_for(self, progress: Progress, hits: list[Block], now: float) -> bool:
        """Loads what lower tiers hold of a waiting request's prompt after its hits, if that is worth it.

        It is where waiting for it, and for what is on its way already, takes less time than computing.

        Returns:
            Whether the request now waits for a transfer.
        """
        size = self._profile.block_size
        start, most = len(hits), (progress.known - 1) // size
        stretches = self._stretches(progress.hashes, start, most)
        chosen = stretches[: self._worth(stretches, start, now)]
        if not chosen:
            return False
        wanted: dict[str, list[int]] = {}
        awaited: dict[Transfer, None] = {}
        for stretch in chosen:
            if stretch.under_way is not None:
                awaited[stretch.under_way] = None
            elif stretch.source != DEVICE:
                wanted.setdefault(stretch.source, []).extend(stretch.indices)
            if stretch.source != DEVICE:
                tokens = len(stretch.indices) * size
                progress.loaded[stretch.source] = progress.loaded.get(stretch.source, 0) + tokens
        held = hits
        for source, indices in wanted.items():
            path = progress.hashes[: indices[-1] + 1]
            awaited[self.begin(source, path, indices, now, held=held, waiter=progress)] = None
            held = []
        for transfer in awaited:
            transfer.waiters.append(progress)
        progress.awaits = len(awaited)
        return True

    def begin(
        self,
        source: str,
        path: Sequence[bytes],
        indices: Sequence[int],
        now: float,
        *,
        held: list[Block] | None = None,
        waiter: Progress | None = None,
        boundaries: Sequence[Boundary] = (),
        scope: str | None = None,
    ) -> Transfer:
        """Starts to read the blocks `indices` of a path, for which there must be room.

        Args:
            held: cached blocks to pin until the end.
            waiter: the request that they are read for; the caller notes that it waits.
            boundaries: digests that become known once the blocks are there, in `scope`.
        """
        pool = self._cache.pool
        if source != PEER:
            # Before room is made, which could push them out of their tier.
            for index in indices:
                if (tier := self._cache.tier_of(path[index])) is not None:
                    tier.refresh(path[index])
        pinned = held or []
        pool.touch(pinned)
        blocks = pool.allocate(len(indices), now)
        ends_s = now + self._takes(source, len(indices), now)
        self._free_at[source] = ends_s
        self.bytes_by_source[source] += len(indices) * self._profile.block_bytes
        transfer = Transfer(
            source, path, indices, blocks, pinned, ends_s, waiter is None, boundaries=boundaries, scope=scope
        )
        self._under_way.append(transfer)
        for index in indices:
            self._arriving[path[index]] = transfer
        if self._listener is not None:
            self._listener(Loading(source, _hashes(transfer), ends_s, waiter.request.id if waiter else None))
        return transfer

    def complete(self, now: float) -> bool:
        """Ends what is due; returns whether anything was."""
        due = [transfer for transfer in self._under_way if transfer.ends_s <= now]
        due.sort(key=lambda transfer: transfer.ends_s)
        for transfer in due:
            self._under_way.remove(transfer)
            self._end(transfer)
        return bool(due)

    def cancel(self) -> None:
        """Drops all transfers; who waited for one waits no more."""
        for transfer in self._under_way:
            self._cache.pool.release([*transfer.held, *transfer.blocks])
            for waiter in transfer.waiters:
                waiter.awaits = 0
                waiter.loaded.clear()
        self._under_way.clear()
        self._arriving.clear()

    def _end(self, transfer: Transfer) -> None:
        cache, path = self._cache, transfer.path
        for index, block in zip(transfer.indices, transfer.blocks, strict=True):
            block_hash = path[index]
            del self._arriving[block_hash]
            # It may have been computed meanwhile.
            if not cache.pool.is_cached(block_hash):
                cache.pool.register(block, block_hash)
        cache.loaded(path, transfer.indices, transfer.boundaries, transfer.scope)
        cache.pool.release([*transfer.held, *transfer.blocks])
        for waiter in transfer.waiters:
            waiter.awaits -= 1
        if self._listener is not None:
            self._listener(Loaded(transfer.source, _hashes(transfer)))

    def _stretches(self, hashes: Sequence[bytes], start: int, most: int) -> list[_Stretch]:
        """Returns where the blocks from `start` on could come from, up to the first that must be computed."""
        found: list[_Stretch] = []
        cache = self._cache
        for index in range(start, most):
            block_hash = hashes[index]
            under_way = self._arriving.get(block_hash)
            if under_way is not None:
                source = under_way.source
            elif not cache.contexts.has(block_hash):
                break
            elif cache.pool.is_cached(block_hash):
                source = DEVICE
            else:
                tier = cache.tier_of(block_hash)
                assert tier is not None
                source = tier.tier.value
            if not found or found[-1].source != source or found[-1].under_way is not under_way:
                found.append(_Stretch(source, under_way, []))
            found[-1].indices.append(index)
        return found

    def _worth(self, stretches: Sequence[_Stretch], start: int, now: float) -> int:
        """Returns how many of the stretches to wait for: those that save the most time, 0 if none does."""
        best, most_saved, waits = 0, 0.0, 0.0
        blocks = dict.fromkeys(self._rates, 0)
        size = self._profile.block_size
        for count, stretch in enumerate(stretches, 1):
            if stretch.under_way is not None:
                waits = max(waits, stretch.under_way.ends_s - now)
            elif stretch.source != DEVICE:
                blocks[stretch.source] += len(stretch.indices)
                waits = max(waits, self._takes(stretch.source, blocks[stretch.source], now))
            saved = self._profile.prefill_s(start * size, (stretch.indices[-1] + 1) * size) - waits
            if saved > most_saved:
                best, most_saved = count, saved
        return best

    def _takes(self, source: str, blocks: int, now: float) -> float:
        """Returns the seconds until as many blocks are here, if their transfer is begun now."""
        queued = max(self._free_at[source] - now, 0.0)
        reading = blocks * self._profile.block_bytes / self._rates[source]
        return queued + self._profile.transfer_latency_s + reading


def _hashes(transfer: Transfer) -> tuple[bytes, ...]:
    return tuple(transfer.path[index] for index in transfer.indices)
