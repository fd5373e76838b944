"""A per-block LRU prefix cache, written apart from the engine's, to count what the engine should.

It knows of the engine only the order in which it admitted requests, computed tokens and released them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from llmd_agents.engine import (
    Aborted,
    Admitted,
    CacheReset,
    Finished,
    Preempted,
    Queued,
    Record,
    Scheduled,
)

TOKEN_BYTES = 4


@dataclass(eq=False)
class Slot:
    """One block of memory. `name` identifies what it holds: the model, the tokens, and all before them."""

    users: int = 0
    name: int | None = None


@dataclass
class Job:
    model: bytes
    tokens: bytes
    prompt_tokens: int
    slots: list[Slot] = field(default_factory=list)
    names: list[int] = field(default_factory=list)
    named: int = 0
    """How many of the slots hold whole blocks by now: all from the start on."""
    computed: int = 0


class BlockLru:
    """Replays an engine's records; `cached_tokens` holds each request's hits at its first admission."""

    def __init__(self, slots: int, block_tokens: int) -> None:
        self.cached_tokens: dict[str, int] = {}
        self.prompt_tokens: dict[str, int] = {}
        self.evictions = 0
        self._block_tokens = block_tokens
        self._names: dict[tuple[int | bytes, bytes], int] = {}
        self._blank = [Slot() for _ in range(slots)]
        self._unused: OrderedDict[int, Slot] = OrderedDict()  # by id(slot), least recently used first
        self._holders: dict[int, list[Slot]] = {}
        self._jobs: dict[str, Job] = {}

    def take(self, record: Record) -> None:
        match record:
            case Queued(request):
                tokens = request.prompt + request.output
                self._jobs[request.id] = Job(request.root, tokens, len(request.prompt) // TOKEN_BYTES)
            case Admitted(request_id):
                self._admit(request_id)
            case Scheduled(request_id, _, end):
                self._compute(self._jobs[request_id], end)
            case Preempted(request_id):
                self._release(self._jobs[request_id])
            case Finished(request_id) | Aborted(request_id):
                self._release(self._jobs.pop(request_id))
            case CacheReset():
                self._blank += self._unused.values()
                self._unused.clear()
                self._holders.clear()
                for slot in self._blank:
                    slot.name = None

    def _name(self, job: Job, index: int) -> int:
        while len(job.names) <= index:
            start = len(job.names) * self._block_tokens * TOKEN_BYTES
            content = job.tokens[start : start + self._block_tokens * TOKEN_BYTES]
            before = job.names[-1] if job.names else job.model
            job.names.append(self._names.setdefault((before, content), len(self._names)))
        return job.names[index]

    def _admit(self, request_id: str) -> None:
        job = self._jobs[request_id]
        generated = max(job.computed - job.prompt_tokens + 1, 0)
        known = job.prompt_tokens + generated
        assert not job.slots
        # The last token is always computed: it gives the first new one.
        for index in range((known - 1) // self._block_tokens):
            holders = self._holders.get(self._name(job, index))
            if not holders:
                break
            slot = holders[0]
            if slot.users == 0:
                del self._unused[id(slot)]
            slot.users += 1
            job.slots.append(slot)
        job.named = len(job.slots)
        self.prompt_tokens.setdefault(request_id, job.prompt_tokens)
        self.cached_tokens.setdefault(request_id, len(job.slots) * self._block_tokens)

    def _compute(self, job: Job, end: int) -> None:
        while len(job.slots) * self._block_tokens < end:
            job.slots.append(self._free_slot())
        while job.named < end // self._block_tokens:
            slot = job.slots[job.named]
            assert slot.name is None
            slot.name = self._name(job, job.named)
            self._holders.setdefault(slot.name, []).append(slot)
            job.named += 1
        job.computed = max(job.computed, end)

    def _free_slot(self) -> Slot:
        if self._blank:
            slot = self._blank.pop()
        else:
            _, slot = self._unused.popitem(last=False)
            assert slot.name is not None
            holders = self._holders[slot.name]
            holders.remove(slot)
            if not holders:
                del self._holders[slot.name]
            slot.name = None
            self.evictions += 1
        slot.users = 1
        return slot

    def _release(self, job: Job) -> None:
        for slot in reversed(job.slots):
            slot.users -= 1
            if slot.users == 0:
                if slot.name is None:
                    self._blank.append(slot)
                else:
                    self._unused[id(slot)] = slot
        job.slots, job.named = [], 0
