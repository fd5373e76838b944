"""The embedded engine's core: continuous batching over a prefix cache, in modelled time.

It runs no model: what a request will say is given with it, and how long a step takes comes from the
profile's cost model. It does no I/O and reads no clock: requests and the time come in, tokens come out.
"""

import dataclasses
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from llmd_agents.hints import Directive, DirectiveOutcome, EngineKv, ResidencyChange, Tier

from .cache import PrefixCache
from .directives import Directives
from .dispatch import DispatchOrder, first_come_first_served
from .eviction import EvictionOrder, LeastRecentlyUsed
from .export import Export, PeerRead
from .profile import EngineProfile
from .prompts import Prompts
from .records import Aborted, Finished, Listener, Queued
from .request import EngineRequest, Progress, RequestStats
from .retention import ByNextUse
from .scheduler import Chunk, Scheduler
from .transfers import DEVICE, HOST, PEER, STORAGE, Transfers

DEFAULT_RETENTION_BUDGET: Final = 0.9

_SOURCES: Final = {DEVICE: "device", HOST: "host", STORAGE: "disk", PEER: "p2p"}
"""vLLM's words for where cached tokens came from."""


class RequestTooLarge(ValueError):
    """The request could never run, even alone: its context or its blocks exceed the engine's."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step did; everything in it holds from the step's end on, `duration_s` after its start.

    Attributes:
        duration_s: modelled seconds.
        tokens: how many tokens each request got, by request id.
        finished: the requests that got their last token.
        residency: changes of what the cache holds, in order; these hold from the step's start on.
    """

    duration_s: float
    tokens: dict[str, int]
    finished: tuple[RequestStats, ...] = ()
    residency: tuple[ResidencyChange, ...] = ()


@dataclass(slots=True)
class Totals:
    """Counters since the engine started; they count as vLLM's metrics of the same names do."""

    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_by_source: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SOURCES.values(), 0))
    """Parts of `prefix_cache_hits`: what a request had waited for to be loaded, and `device` for the rest."""


def eviction_order_named(name: str) -> EvictionOrder:
    """Returns a new order: `next-use` or `lru`.

    Raises:
        ValueError: for any other name.
    """
    if name == "next-use":
        return ByNextUse()
    if name == "lru":
        return LeastRecentlyUsed()
    raise ValueError(f"eviction must be next-use or lru, not {name!r}")


class EngineCore:
    """One engine.

    Requests that only wait for a transfer are no work: where there is none, `step` is due at `next_event`, or
    when a request or a directive comes.

    Args:
        profile: sizes and cost model.
        eviction: which cached block is given up first: `next-use`, `lru`, or an order that serves this engine
            alone. Only with `next-use` directives retain and release are carried out.
        dispatch: which waiting request is admitted next.
        protect_waiting: give up the cached blocks that waiting requests would hit after all other free ones.
        retention_budget: share of each tier that estimates may keep beyond least-recently-used order, 0 to 1.
        listener: called with a record of everything that happens (`records`).
    """

    def __init__(
        self,
        profile: EngineProfile,
        *,
        eviction: EvictionOrder | str | None = None,
        dispatch: DispatchOrder = first_come_first_served,
        protect_waiting: bool = False,
        retention_budget: float = DEFAULT_RETENTION_BUDGET,
        listener: Listener | None = None,
    ) -> None:
        if not 0 <= retention_budget <= 1:
            raise ValueError(f"retention_budget must be from 0 to 1, not {retention_budget}")
        self.profile = profile
        self.totals = Totals()
        if eviction is None or isinstance(eviction, str):
            eviction = eviction_order_named(eviction or "next-use")
        self._cache = PrefixCache(
            profile, eviction, listener, retention_budget=retention_budget, protect_waiting=protect_waiting
        )
        self._transfers = Transfers(profile, self._cache, listener)
        self._scheduler = Scheduler(profile, self._cache, self._transfers, dispatch, listener)
        self._prompts = Prompts()
        self._directives = Directives(
            profile, self._cache, self._transfers, self._scheduler, self._prompts, self._warm
        )
        self._requests: dict[str, Progress] = {}
        self._internal: dict[str, Progress] = {}
        self._internal_ids = count(1)
        self._stalled = False
        self._listener = listener

    @property
    def has_work(self) -> bool:
        """Whether there is something to compute now, as far as is known."""
        return bool(self._requests or self._internal) and not self._stalled

    def next_event(self) -> float | None:
        """Returns the modelled time at which a transfer ends; None if there is none under way."""
        return self._transfers.next_end

    @property
    def num_running(self) -> int:
        return sum(not progress.internal for progress in self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests without blocks: not yet admitted, or preempted."""
        return len(self._scheduler.waiting) + len(self._scheduler.preempted)

    @property
    def num_preemptions(self) -> int:
        return self._scheduler.preemptions

    @property
    def cache_usage(self) -> float:
        """Share of the blocks that running requests hold, 0 to 1."""
        return self._cache.pool.usage

    def resident(self) -> tuple[ResidencyChange, ...]:
        """Returns every chain digest that the cache holds whole."""
        return self._cache.residency.snapshot()

    def add(self, request: EngineRequest, now: float) -> None:
        """Queues a request that arrives at `now`, in modelled seconds.

        Raises:
            RequestTooLarge: if it could never run.
            ValueError: if a request of that id is in the engine.
        """
        if request.id in self._requests:
            raise ValueError(f"request {request.id!r} is already in the engine")
        progress = Progress.start(request, now)
        if progress.total > self.profile.max_model_len:
            raise RequestTooLarge(
                f"{progress.total} tokens exceed the context length of {self.profile.max_model_len}"
            )
        # The last token is never computed, so it needs no room.
        if progress.total - 1 > self.profile.cache_tokens:
            raise RequestTooLarge(
                f"{progress.total} tokens exceed the cache of {self.profile.cache_tokens} tokens"
            )
        self._tell(now)
        self._requests[request.id] = progress
        self._scheduler.waiting.append(progress)
        self._cache.arrived(progress)
        self._prompts.note(request)
        if self._listener is not None:
            self._listener(Queued(request))

    def abort(self, request_id: str) -> bool:
        """Drops a request, whatever it is doing; returns False if it is not in the engine."""
        progress = self._requests.pop(request_id, None)
        if progress is None:
            return False
        self._stalled = False
        self._scheduler.remove(progress)
        self._cache.release(progress)
        if self._listener is not None:
            self._listener(Aborted(request_id))
        return True

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached context, in every tier and on its way, and all estimates.

        Does nothing and returns False while requests hold blocks.
        """
        if not self._scheduler.running:
            self._transfers.cancel()
            self._stalled = False
        return self._cache.reset()

    def direct(self, action_id: str, directive: Directive, now: float) -> DirectiveOutcome | PeerRead:
        """Carries a directive out, at modelled time `now`.

        Returns:
            What became of it; or, for a prefetch from a peer, what to ask that peer for. `receive` takes the
            peer's answer and returns the outcome.
        """
        self._tell(now)
        return self._directives.carry_out(action_id, directive, now)

    def export(self, digest: bytes, scope: str | None, now: float) -> Export | None:
        """Returns what device and host tier hold of a context, for a peer to copy; None if nothing."""
        self._tell(now)
        return self._directives.export(digest, scope)

    def receive(self, read: PeerRead, export: Export | None, now: float) -> DirectiveOutcome:
        """Begins to copy what a peer has exported; None if it holds nothing."""
        self._tell(now)
        answer = self._directives.receive(export, read.scope, read.digest, now)
        return self._directives.settled("prefetch", read.action_id, *answer)

    def refuse(self, read: PeerRead, reason: str) -> DirectiveOutcome:
        """Gives up a prefetch from a peer that could not be asked."""
        return self._directives.settled("prefetch", read.action_id, "rejected", reason, None)

    def take_residency(self) -> tuple[ResidencyChange, ...]:
        """Returns changes of what the tiers hold that no step has told of."""
        return self._cache.residency.take_changes()

    def kv(self, epoch: str, now: float) -> EngineKv:
        """Returns what the engine tells of its cache."""
        size, pool = self.profile.block_size, self._cache.pool
        below = self._cache.tiers
        return EngineKv(
            epoch=epoch,
            directives=self._directives.supported,
            rates=self.profile.rates,
            tiers={
                Tier.DEVICE.value: self.profile.cache_tokens,
                **{tier.tier.value: tier.num_blocks * size for tier in below},
            },
            used={
                Tier.DEVICE.value: (pool.usable - pool.empty) * size,
                **{tier.tier.value: len(tier) * size for tier in below},
            },
            budget=self._cache.budget * size,
            retained=self._cache.contexts.retained(now),
        )

    @property
    def directive_outcomes(self) -> dict[tuple[str, str], int]:
        """How many directives were answered so, by type and outcome."""
        return self._directives.outcomes

    @property
    def transferred_bytes(self) -> dict[str, int]:
        """Bytes read from elsewhere, by vLLM's word for the source."""
        return {_SOURCES[source]: size for source, size in self._transfers.bytes_by_source.items()}

    def step(self, now: float) -> StepOutput:
        """Computes one step that starts at `now`, in modelled seconds; of no duration if there is no work.

        Transfers that are due end first.
        """
        self._tell(now)
        self._transfers.complete(now)
        chunks = self._scheduler.schedule(now)
        if not chunks:
            self._stalled = True
            idle = not (self._requests or self._internal)
            assert idle or len(self._transfers), "an engine with work schedules some of it"
            return StepOutput(0.0, {}, (), self._cache.residency.take_changes())
        duration = self._duration(chunks)
        end_s = now + duration
        self._cache.now = end_s
        tokens: dict[str, int] = {}
        finished: list[RequestStats] = []
        for progress, _, end in chunks:
            progress.computed = end
            if end < progress.known:
                continue
            if progress.internal:
                self._end(progress)
                continue
            if progress.known == progress.prompt_tokens:
                self._first_token(progress, end_s)
            progress.known += 1
            tokens[progress.request.id] = 1
            if progress.known == progress.total:
                finished.append(self._finish(progress, end_s))
        self.totals.generation_tokens += len(tokens)
        return StepOutput(duration, tokens, tuple(finished), self._cache.residency.take_changes())

    def _tell(self, now: float) -> None:
        """Something has come at `now`, so that there may be work again."""
        self._cache.now = now
        self._stalled = False

    def _warm(self, request: EngineRequest) -> None:
        """Computes a prompt that nobody waits for, once nothing else does."""
        warming = dataclasses.replace(request, id=f"internal-{next(self._internal_ids)}")
        progress = Progress.start(warming, self._cache.now, internal=True)
        self._internal[warming.id] = progress
        self._scheduler.behind.append(progress)
        if self._listener is not None:
            self._listener(Queued(warming))

    def _duration(self, chunks: list[Chunk]) -> float:
        profile = self.profile
        duration = profile.step_overhead_s
        for progress, start, end in chunks:
            if start >= progress.prompt_tokens and end - start == 1:
                duration += profile.decode_s(end)
            else:
                duration += profile.prefill_s(start, end)
        return duration

    def _first_token(self, progress: Progress, now: float) -> None:
        progress.first_token_s = now
        totals = self.totals
        totals.prompt_tokens += progress.prompt_tokens
        totals.prefix_cache_queries += progress.prompt_tokens
        cached = progress.cached_tokens or 0
        totals.prefix_cache_hits += cached
        for source, tokens in progress.loaded.items():
            # What it had waited for may have been given up again before it was admitted.
            tokens = min(tokens, cached)
            totals.cached_by_source[_SOURCES[source]] += tokens
            cached -= tokens
        totals.cached_by_source[_SOURCES[DEVICE]] += cached

    def _end(self, progress: Progress) -> None:
        request_id = progress.request.id
        del (self._internal if progress.internal else self._requests)[request_id]
        self._scheduler.remove(progress)
        self._cache.release(progress)
        if self._listener is not None:
            self._listener(Finished(request_id))

    def _finish(self, progress: Progress, now: float) -> RequestStats:
        request = progress.request
        if request.reply is not None:
            self._cache.contexts.name_reply(progress, request.reply, request.reply_end)
        self._end(progress)
        return RequestStats(
            request_id=progress.request.id,
            arrival_s=progress.arrival_s,
            first_scheduled_s=progress.first_scheduled_s,
            first_token_s=progress.first_token_s,
            finish_s=now,
            prompt_tokens=progress.prompt_tokens,
            cached_tokens=progress.cached_tokens or 0,
            output_tokens=progress.total - progress.prompt_tokens,
            preemptions=progress.preemptions,
        )
