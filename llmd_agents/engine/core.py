"""The embedded engine's core: continuous batching over a prefix cache, in modelled time.

It runs no model: what a request will say is given with it, and how long a step takes comes from the
profile's cost model. It does no I/O and reads no clock: requests and the time come in, tokens come out.
"""

from dataclasses import dataclass

from llmd_agents.hints import ResidencyChange

from .cache import PrefixCache
from .dispatch import DispatchOrder, first_come_first_served
from .eviction import EvictionOrder, LeastRecentlyUsed
from .profile import EngineProfile
from .records import Aborted, Finished, Listener, Queued
from .request import EngineRequest, Progress, RequestStats
from .scheduler import Chunk, Scheduler


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


class EngineCore:
    """One engine.

    Args:
        profile: sizes and cost model.
        eviction: which cached block is given up first; the instance serves this engine alone.
        dispatch: which waiting request is admitted next.
        listener: called with a record of everything that happens (`records`).
    """

    def __init__(
        self,
        profile: EngineProfile,
        *,
        eviction: EvictionOrder | None = None,
        dispatch: DispatchOrder = first_come_first_served,
        listener: Listener | None = None,
    ) -> None:
        self.profile = profile
        self.totals = Totals()
        order = LeastRecentlyUsed() if eviction is None else eviction
        self._cache = PrefixCache(profile.block_size, profile.num_blocks, order, listener)
        self._scheduler = Scheduler(profile, self._cache, dispatch, listener)
        self._requests: dict[str, Progress] = {}
        self._listener = listener

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

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
        self._requests[request.id] = progress
        self._scheduler.waiting.append(progress)
        if self._listener is not None:
            self._listener(Queued(request))

    def abort(self, request_id: str) -> bool:
        """Drops a request, whatever it is doing; returns False if it is not in the engine."""
        progress = self._requests.pop(request_id, None)
        if progress is None:
            return False
        self._scheduler.remove(progress)
        self._cache.release(progress)
        if self._listener is not None:
            self._listener(Aborted(request_id))
        return True

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached context; does nothing and returns False while requests hold blocks."""
        return self._cache.reset()

    def step(self, now: float) -> StepOutput:
        """Computes one step that starts at `now`, in modelled seconds; of no duration if there is no work."""
        chunks = self._scheduler.schedule(now)
        assert chunks or not self._requests, "an engine with work schedules some of it"
        duration = self._duration(chunks) if chunks else 0.0
        end_s = now + duration
        tokens: dict[str, int] = {}
        finished: list[RequestStats] = []
        for progress, _, end in chunks:
            progress.computed = end
            if end < progress.known:
                continue
            if progress.known == progress.prompt_tokens:
                self._first_token(progress, end_s)
            progress.known += 1
            tokens[progress.request.id] = 1
            if progress.known == progress.total:
                finished.append(self._finish(progress, end_s))
        self.totals.generation_tokens += len(tokens)
        return StepOutput(duration, tokens, tuple(finished), self._cache.residency.take_changes())

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
        totals.prefix_cache_hits += progress.cached_tokens or 0

    def _finish(self, progress: Progress, now: float) -> RequestStats:
        request_id = progress.request.id
        del self._requests[request_id]
        self._scheduler.remove(progress)
        self._cache.release(progress)
        if self._listener is not None:
            self._listener(Finished(request_id))
        return RequestStats(
            request_id=request_id,
            arrival_s=progress.arrival_s,
            first_scheduled_s=progress.first_scheduled_s,
            first_token_s=progress.first_token_s,
            finish_s=now,
            prompt_tokens=progress.prompt_tokens,
            cached_tokens=progress.cached_tokens or 0,
            output_tokens=progress.total - progress.prompt_tokens,
            preemptions=progress.preemptions,
        )
