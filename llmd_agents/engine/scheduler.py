"""Which tokens are computed in the next step, after vLLM's `v1/core/sched/scheduler.py`.

Running requests come first, in order of admission, then waiting ones, while the token budget of a step and
the number of concurrent requests last. A prompt larger than what is left of the budget is computed in chunks.
"""

from collections import deque
from typing import TypeAlias

from .cache import PrefixCache
from .dispatch import DispatchOrder
from .profile import EngineProfile
from .records import Admitted, Listener, Preempted, Scheduled
from .request import Progress
from .transfers import Transfers

Chunk: TypeAlias = tuple[Progress, int, int]
"""A request, and the range of its tokens (start inclusive, end exclusive) to compute."""


class Scheduler:
    """Holds the queues of waiting and running requests.

    Attributes:
        behind: internal requests, admitted only while no other waits.
    """

    def __init__(
        self,
        profile: EngineProfile,
        cache: PrefixCache,
        transfers: Transfers,
        dispatch: DispatchOrder,
        listener: Listener | None,
    ) -> None:
        self.running: list[Progress] = []
        self.waiting: deque[Progress] = deque()
        self.preempted: deque[Progress] = deque()
        self.behind: deque[Progress] = deque()
        self.preemptions = 0
        self._profile = profile
        self._cache = cache
        self._transfers = transfers
        self._dispatch = dispatch
        self._listener = listener
        self._refused: tuple[Progress, int] | None = None

    def schedule(self, now: float) -> list[Chunk]:
        """Returns what to compute next; the requests have their blocks then.

        If a running request finds no free block, the one admitted last is preempted until it does. Nothing
        is admitted in a step that preempted.
        """
        chunks: list[Chunk] = []
        before = self.preemptions
        budget = self._schedule_running(chunks)
        if self.preemptions == before and (self.preempted or self.waiting or self.behind):
            self._admit(chunks, budget, now)
        return chunks

    def remove(self, progress: Progress) -> None:
        """Takes a request out of whichever queue it is in."""
        for queue in (self.running, self.waiting, self.preempted, self.behind):
            if progress in queue:
                queue.remove(progress)
        if self._refused is not None and self._refused[0] is progress:
            self._refused = None

    def _schedule_running(self, chunks: list[Chunk]) -> int:
        budget = self._profile.max_num_batched_tokens
        running, grow, listener = self.running, self._cache.grow, self._listener
        index = 0
        while index < len(running) and budget > 0:
            progress = running[index]
            start = progress.computed
            end = min(progress.known, start + budget)
            while not grow(progress, end):
                victim = running.pop()
                self._preempt(victim)
                if victim is progress:
                    return budget
            if listener is not None:
                listener(Scheduled(progress.request.id, start, end))
            chunks.append((progress, start, end))
            budget -= end - start
            index += 1
        return budget

    def _preempt(self, progress: Progress) -> None:
        self._cache.release(progress)
        progress.preemptions += 1
        self.preemptions += 1
        (self.behind if progress.internal else self.preempted).appendleft(progress)
        if self._listener is not None:
            self._listener(Preempted(progress.request.id))

    def _admit(self, chunks: list[Chunk], budget: int, now: float) -> None:
        cache, running, listener = self._cache, self.running, self._listener
        while budget > 0 and len(running) < self._profile.max_num_seqs:
            queue, index = self._next(now)
            if queue is None:
                return
            progress = queue[index]
            if self._refused == (progress, cache.pool.changes):
                return  # nothing has happened since that could make room
            hits = cache.lookup(progress)
            if not cache.fits(progress, hits):
                self._refused = (progress, cache.pool.changes)
                return
            if queue is self.waiting and self._transfers.fetch_for(progress, hits, now):
                continue
            del queue[index]
            cache.adopt(progress, hits)
            start = progress.computed
            end = min(progress.known, start + budget)
            if progress.cached_tokens is None:
                progress.cached_tokens = start
                progress.first_scheduled_s = now
            if listener is not None:
                listener(Admitted(progress.request.id, start))
            grown = cache.grow(progress, end)
            assert grown, "a request that fits whole has room for its first chunk"
            if listener is not None:
                listener(Scheduled(progress.request.id, start, end))
            running.append(progress)
            chunks.append((progress, start, end))
            budget -= end - start

    def _next(self, now: float) -> tuple[deque[Progress] | None, int]:
        """Returns who is to be admitted next, as a queue and an index into it."""
        if self.preempted:
            return self.preempted, 0
        waiting, cached_tokens = self.waiting, self._cache.cached_tokens
        if not waiting:
            return (self.behind or None), 0
        if not len(self._transfers):
            index = self._dispatch(waiting, self.running, now, cached_tokens)
            return (None, 0) if index is None else (waiting, index)
        offered = [index for index, progress in enumerate(waiting) if not progress.awaits]
        if not offered:
            return None, 0
        index = self._dispatch([waiting[index] for index in offered], self.running, now, cached_tokens)
        return (None, 0) if index is None else (waiting, offered[index])
