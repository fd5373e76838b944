"""The scheduler's half: which blocks are loaded and which are written."""

import sys
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from .plan import Done, Plan
from .store import BlockFiles

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

HASHES_MAX: Final = 65_536
"""Most block hashes that are remembered, of each kind."""

SEEN_FOR_S: Final = 1.0
"""How long a file that was seen is taken to be there: a waiting request is looked up again at every step."""

_PLANNED: Final = float("-inf")

_T = TypeVar("_T")


class Planner:
    """Looks prompts up block by block and keeps track of what each request has written.

    A block is there when all ranks have a file for it. `now` is monotonic, in seconds.

    Args:
        files: the files of each rank, which are only looked for.
        namespace: the namespace of those files.
        block_tokens: tokens in a block.
        save_outputs: whether blocks with generated tokens are written.
    """

    def __init__(
        self, files: Sequence[BlockFiles], namespace: bytes, block_tokens: int, *, save_outputs: bool
    ) -> None:
        self._files = files
        self._namespace = namespace
        self._block_tokens = block_tokens
        self._save_outputs = save_outputs
        self._requests: dict[str, Request] = {}
        self._looked_up_from: dict[str, int] = {}
        self._planned_up_to: dict[str, int] = {}
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._unusable: OrderedDict[bytes, None] = OrderedDict()
        self._plan = Plan(namespace)
        self._worker_counts: Counter[str] = Counter()
        self._stale = False

    @property
    def counts(self) -> Counter[str]:
        """How often what happened, by kind, on all ranks and in lookups."""
        return sum((files.counts for files in self._files), self._worker_counts)

    def holds(self, block_hash: bytes, now: float) -> bool:
        """Whether the block can be expected to load."""
        if self._stale or block_hash in self._unusable:
            return False
        if now - self._seen.get(block_hash, _PLANNED) < SEEN_FOR_S:
            return True
        if not all(files.holds(block_hash) for files in self._files):
            self._seen.pop(block_hash, None)
            return False
        _remember(self._seen, block_hash, now)
        return True

    def arrived(self, request: "Request") -> None:
        self._requests[request.request_id] = request

    def finished(self, request_id: str) -> None:
        self._requests.pop(request_id, None)
        self._looked_up_from.pop(request_id, None)
        self._planned_up_to.pop(request_id, None)

    def loadable(self, request: "Request", computed_tokens: int, now: float) -> int:
        """Returns how many tokens after the computed ones can be loaded: whole blocks, not the last token."""
        start = end = computed_tokens // self._block_tokens
        hashes = request.block_hashes
        last = min(len(hashes), (request.num_tokens - 1) // self._block_tokens)
        while end < last and self.holds(hashes[end], now):
            end += 1
        for missing in hashes[end:]:  # whatever was planned once: it is written again when it is computed
            self._seen.pop(missing, None)
        self._looked_up_from[request.request_id] = start
        return (end - start) * self._block_tokens

    def allocated(self, request: "Request", ids: Sequence[Sequence[int]], external_tokens: int) -> None:
        """Plans the load of that many of the tokens that were found.

        Args:
            ids: the blocks of the request from its first token on, for each group of layers.
        """
        start = self._looked_up_from.pop(request.request_id, None)
        if start is None or not external_tokens:
            return
        self._plan.loads[request.request_id] = [
            (request.block_hashes[i], tuple(group[i] for group in ids))
            for i in range(start, start + external_tokens // self._block_tokens)
        ]

    def plan(self, step: "SchedulerOutput") -> Plan:
        """Returns the plan of this step: loads as allocated, and blocks that are full when it ends."""
        for request_id, tokens in step.num_scheduled_tokens.items():
            request = self._requests.get(request_id)
            if request is not None:
                self._plan_saves(step, request, tokens)
        plan, self._plan = self._plan, Plan(self._namespace)
        return plan

    def _plan_saves(self, step: "SchedulerOutput", request: "Request", tokens: int) -> None:
        # Tokens that are not known yet have no hash, so that a block with one is not full.
        known = request.num_tokens if self._save_outputs else request.num_prompt_tokens
        full = min(
            len(request.block_hashes), min(request.num_computed_tokens + tokens, known) // self._block_tokens
        )
        start = self._planned_up_to.get(request.request_id, 0)
        ids = None
        for i in range(start, full):
            block_hash = request.block_hashes[i]
            if block_hash in self._seen:
                continue
            if ids is None:
                state = step.kv_connector_block_state
                ids = state.get_block_ids(request.request_id) if state is not None else None
                if ids is None:
                    return
            self._plan.saves.append((block_hash, tuple(group[i] for group in ids)))
            _remember(self._seen, block_hash, _PLANNED)
        self._planned_up_to[request.request_id] = max(start, full)

    def done(self, done: Done) -> None:
        """Takes what became of plans: blocks that are not there are no longer taken to be."""
        for block_hash in done.absent | done.unusable:
            self._seen.pop(block_hash, None)
        for block_hash in done.unusable:
            _remember(self._unusable, block_hash, None)
        self._worker_counts += done.counts

    def forget(self) -> bool:
        """Removes all blocks of this namespace and returns True, or False and nothing is loaded any more."""
        self._seen.clear()
        # What requests under way have computed so far is what shall be forgotten.
        self._planned_up_to = dict.fromkeys(self._requests, sys.maxsize)
        self._stale = sum(files.clear() for files in self._files) > 0
        return not self._stale


def _remember(hashes: "OrderedDict[bytes, _T]", block_hash: bytes, value: _T) -> None:
    hashes[block_hash] = value
    hashes.move_to_end(block_hash)
    if len(hashes) > HASHES_MAX:
        hashes.popitem(last=False)
