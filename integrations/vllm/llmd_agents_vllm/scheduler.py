"""vLLM's scheduler with another queue: what is cached and what matters to a program goes first.

vllm serve … --scheduler-cls llmd_agents_vllm.scheduler.AgentScheduler
    [--additional-config '{"llmd_agents": {"aging_s": 10, "short_tokens": 2048}}']
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler

from .queue_order import QueueRule
from .startup_check import Part, check, usable

OPTIONS = "llmd_agents"

log = logging.getLogger("vllm.llmd_agents")


class AgentScheduler(Scheduler):
    """Admits waiting requests in the order of `queue_order`; everything else is vLLM's.

    Where vLLM schedules asynchronously (its default on GPUs) it makes an `AsyncAgentScheduler` instead, so
    that this one name is right everywhere.

    Raises:
        BadOptions: if `additional_config["llmd_agents"]` cannot be used.
        Mismatch: if this vLLM lacks what the order needs, and `LLMD_AGENTS_ON_MISMATCH=refuse`.
    """

    waiting: RequestQueue

    def __new__(cls, vllm_config: Any, *args: Any, **kwargs: Any) -> Self:
        chosen: type = cls
        if cls is AgentScheduler and vllm_config.scheduler_config.async_scheduling:
            chosen = AsyncAgentScheduler
        scheduler: Self = super().__new__(chosen)
        return scheduler

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        rule = rule_of(vllm_config)
        super().__init__(vllm_config, *args, **kwargs)
        if usable(Part.SCHEDULER):
            try:
                self.waiting = self._ordered(rule)
            except Exception:
                log.exception("AgentScheduler has failed; requests wait in vLLM's own order")

    def _ordered(self, rule: QueueRule) -> RequestQueue:
        # Only now, since they import what the check is about.
        from .agent_queue import AgentQueue
        from .cached_prefix import EnginePrefix

        return AgentQueue(
            self.waiting,
            rule,
            by_engine_priority=self.policy == SchedulingPolicy.PRIORITY,
            running=lambda: self.running,
            step=lambda: self.current_step,
            cached=EnginePrefix.of(self.kv_cache_manager, self.hash_block_size, _host_tier(self)),
            clock=time.monotonic,
        )


class AsyncAgentScheduler(AgentScheduler, AsyncScheduler):
    """The same over vLLM's asynchronous scheduler."""


def rule_of(vllm_config: Any) -> QueueRule:
    """Reads the operator's options; those of another kind of object are not ours."""
    additional = vllm_config.additional_config
    if not isinstance(additional, Mapping) or OPTIONS not in additional:
        return QueueRule()
    return QueueRule.of(additional[OPTIONS])


def _host_tier(scheduler: Scheduler) -> Callable[[bytes], bool] | None:
    """Returns what tells whether `AgentOffloadPolicy` keeps a block in host memory; None without that."""
    if scheduler.connector is None or check(Part.OFFLOAD) is not None:
        return None
    from .offload.policy import policy_of_process

    policy = policy_of_process()
    return None if policy is None else policy.holds
