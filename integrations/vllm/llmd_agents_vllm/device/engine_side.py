"""The scheduler's side of `AgentConnector`: vLLM's calls, turned into entries in the books."""

import secrets
from typing import TYPE_CHECKING

from vllm.v1.core.kv_cache_utils import resolve_block_hashes
from vllm.v1.kv_cache_interface import FullAttentionSpec

from llmd_agents.hints import (
    Directive,
    DirectiveOutcome,
    EngineKv,
    ResidencyBatch,
    Tier,
    residency_scope,
)

from ..carried import read
from ..lower_tiers import lower_tiers
from .books import Books
from .directives import Ahead, Directives
from .feed import Feed
from .options import Options
from .pool import DevicePool
from .prompts import Prompts
from .rates import Rates
from .use import Use

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request


class EngineSide:
    """One engine: its books, what it tells, and what it is told. The time is passed in, monotonic seconds.

    Args:
        pool: the device's block pool.
    """

    def __init__(
        self, options: Options, config: "VllmConfig", cache: "KVCacheConfig", pool: "BlockPool"
    ) -> None:
        specs = [group.kv_cache_spec for group in cache.kv_cache_groups]
        main = next((at for at, spec in enumerate(specs) if isinstance(spec, FullAttentionSpec)), 0)
        self._groups = len(specs)
        self._block_size = int(specs[main].block_size)
        self._hash_block_size = int(pool.hash_block_size)
        lower = lower_tiers()
        self._pool = DevicePool(pool, range(len(specs)), main)
        self._books = Books(
            self._pool,
            self._block_size,
            lower,
            # They count blocks of one group, and each group takes its own from the pool.
            budget=options.retention_budget / self._groups,
            scope_budget=options.retention_budget_per_tenant / self._groups,
            at_once=config.scheduler_config.max_num_seqs,
        )
        self._prompts = Prompts()
        self._directives = Directives(self._books, self._prompts)
        self._rates = Rates(
            options, sequences_at_once=config.scheduler_config.max_num_seqs, lower=bool(lower)
        )
        self._feed = Feed(secrets.token_hex(8), self._books.residency.snapshot)
        self._requests: dict[str, Request] = {}

    def close(self) -> None:
        """Leaves vLLM's parts as they were found."""
        self._pool.close()

    # --- what the scheduler does

    def arrived(self, request: "Request") -> None:
        carried = read(request.kv_transfer_params)
        hashes = resolve_block_hashes(request.block_hashes, self._hash_block_size, self._block_size)
        repeatable = request.lora_request is None and not request.mm_features
        self._requests[request.request_id] = request
        self._books.arrived(
            request.request_id,
            Use(
                hashes=hashes,
                prompt=request.prompt_token_ids or (),
                links=carried.links if carried is not None else (),
                scope=residency_scope(request.cache_salt),
                hints=carried.hints if carried is not None else None,
                salt=request.cache_salt,
                repeatable=repeatable and request.prompt_token_ids is not None,
            ),
        )

    def about_to_start(self, request: "Request", cached_tokens: int, now: float) -> None:
        """Takes note that a request is about to be given blocks for what is not on the device of it."""
        blocks = -(-(request.num_tokens - cached_tokens) // self._block_size)
        self._books.prepare(blocks * self._groups, now)

    def scheduled(self, output: "SchedulerOutput", now: float) -> None:
        """Takes in one step, as it has just been scheduled."""
        books = self._books
        books.take_evicted()
        for request_id in output.preempted_req_ids or ():
            books.preempted(request_id, now)
        prompt_tokens = decodes = 0
        for request_id, count in output.num_scheduled_tokens.items():
            request = self._requests.get(request_id)
            if request is None:
                continue
            if request.num_computed_tokens + count > request.num_prompt_tokens:
                decodes += 1
            prompt_tokens += max(0, min(count, request.num_prompt_tokens - request.num_computed_tokens))
            if books.advanced(request_id, request.num_computed_tokens + count, now):
                use = books.known(request_id)
                assert use is not None
                self._prompts.note(use)
        self._rates.scheduled(now, prompt_tokens, decodes)
        self._settle(now)

    def finished(self, request: "Request", now: float) -> None:
        self._requests.pop(request.request_id, None)
        self._books.finished(request.request_id, now)
        if not self._requests:
            self._rates.paused()

    # --- what is asked over HTTP

    def carry_out(self, action_id: str, directive: Directive, now: float) -> DirectiveOutcome | Ahead:
        self._books.take_evicted()
        answer = self._directives.carry_out(action_id, directive, now)
        self._settle(now)
        return answer

    def brought(self, tokens: int) -> None:
        self._directives.arrived(tokens)

    def residency(self, since: int | None, epoch: str | None, now: float) -> list[ResidencyBatch]:
        """Returns what has changed since a batch of this epoch; all that is resident for any other."""
        self._settle(now)
        return self._feed.since(since if epoch == self._feed.epoch else None)

    def kv(self, now: float) -> EngineKv:
        books = self._books
        budget = int(books.budget.total) * self._block_size
        return EngineKv(
            epoch=self._feed.epoch,
            directives=self._directives.supported,
            rates=self._rates.now,
            tiers={Tier.DEVICE.value: books.pool.size // self._groups * self._block_size},
            used={Tier.DEVICE.value: books.pool.cached_or_used // self._groups * self._block_size},
            budget=budget,
            retained=books.retained(now),
            retained_by_program=books.retained_by_program(now),
        )

    # --- inside

    def _settle(self, now: float) -> None:
        self._books.settle(now)
        changes = self._books.take_residency()
        self._feed.publish(changes, cleared=self._books.cleared)
        self._books.cleared = False
