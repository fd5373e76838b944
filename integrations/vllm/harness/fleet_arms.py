"""The arms: what vLLM engines can be given of us, and what hints may do at the router in front of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .connectors import composed, host_tier
from .engines import EngineOptions

BLOCK_BYTES: Final = 32_768
"""A block of 32 tokens of the tiny model: 2 layers, keys and values, 2 heads of 32 numbers of 4 bytes."""

_MIDDLEWARE: Final = ("--middleware", "llmd_agents_vllm.middleware.HintsMiddleware")
_SCHEDULER: Final = ("--scheduler-cls", "llmd_agents_vllm.scheduler.AgentScheduler")
_BY_PRIORITY: Final = ("--scheduling-policy", "priority")


@dataclass(frozen=True, kw_only=True)
class Size:
    """What each engine holds, in blocks of 32 tokens."""

    device_blocks: int = 200
    host_blocks: int = 200
    max_model_len: int = 4096

    @property
    def tokens(self) -> int:
        return 32 * (self.device_blocks + self.host_blocks)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of serving; all place calls by load and affinity.

    Attributes:
        title: for people.
        hints: whether the router acts on hints; else it reads none.
        host: the eviction policy of the host tier; None leaves that tier out.
        connector: whether engines have `AgentConnector` beside the host tier.
        middleware: whether hints reach the engine within a call.
        scheduler: whether waiting requests go in our order; else in vLLM's own.
    """

    title: str
    hints: bool = False
    host: str | None = "lru"
    connector: bool = False
    middleware: bool = False
    scheduler: bool = False

    @property
    def mode(self) -> str:
        return "act" if self.hints else "off"

    def engine(self, size: Size) -> EngineOptions:
        flags: tuple[str, ...] = ()
        if self.middleware:
            flags += _MIDDLEWARE
        if self.scheduler:
            flags += _SCHEDULER
        if self.hints:
            flags += _BY_PRIORITY
        # The first block is never used.
        return EngineOptions(
            num_blocks=size.device_blocks + 1,
            max_model_len=size.max_model_len,
            kv_transfer_config=self._connectors(size),
            flags=flags,
            environment={
                "VLLM_PLUGINS": "llmd_agents" if self.connector else "",
                "VLLM_SERVER_DEV_MODE": "1",
            },
        )

    def _connectors(self, size: Size) -> Mapping[str, Any] | None:
        if self.host is None:
            return None
        host = host_tier(size.host_blocks * BLOCK_BYTES, self.host)
        return composed(host) if self.connector else host


ARMS: Final[dict[str, Arm]] = {
    "lru-device": Arm(title="vLLM, device alone", host=None),
    "lru": Arm(title="vLLM"),
    # Without hints this policy keeps what vLLM's LRU keeps; it is what tells the scheduler of the host tier.
    "cached-first": Arm(title="cached first, no hints", host="AgentOffloadPolicy", scheduler=True),
    "tier-a": Arm(title="tier A", hints=True),
    "tier-b": Arm(
        title="tier B, cached first", hints=True, host="AgentOffloadPolicy", middleware=True, scheduler=True
    ),
    "tier-c": Arm(
        title="tier C, cached first",
        hints=True,
        host="AgentOffloadPolicy",
        connector=True,
        middleware=True,
        scheduler=True,
    ),
}
