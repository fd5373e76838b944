"""`AgentConnector`: the device's blocks, ordered by what hints and directives say.

    --kv-transfer-config '{"kv_connector": "AgentConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "llmd_agents_vllm.connector",
        "kv_connector_extra_config": {"retention_budget": 0.9}}'

It moves no bytes. Beside a connector that does, under vLLM's `MultiConnector`, it also knows of the tiers
below. Whatever goes wrong in it is logged once, and the engine goes on without it.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from .device.options import Options
from .startup_check import Part, usable

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.request import Request

    from .device.engine_side import EngineSide

log = logging.getLogger("vllm.llmd_agents")

T = TypeVar("T")

_FAILED = "AgentConnector has failed; the engine goes on without it, in vLLM's own order"


class NotInUse(RuntimeError):
    """The connector does not act: vLLM is not as it expects it, or it has failed. The log says why."""


class _Nothing(KVConnectorMetadata):
    """What the workers are told: they have no part in this."""


class AgentConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module. `engine_side` is None where it does not act."""

    requires_kv_delivery = False

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._options = Options.of(self._kv_transfer_config.kv_connector_extra_config)
        self._config = vllm_config
        self._cache = kv_cache_config
        self.engine_side: EngineSide | None = None

    # --- scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        if not gpu_block_pool.enable_caching:
            log.warning("AgentConnector has nothing to order: prefix caching is off")
        elif self._config.parallel_config.data_parallel_size > 1:
            log.error("AgentConnector does not support data parallelism. It stays off; the engine runs on")
        elif usable(Part.CONNECTOR):
            try:
                # Only now, since it imports what the check is about.
                from .device.engine_side import EngineSide

                self.engine_side = EngineSide(self._options, self._config, self._cache, gpu_block_pool)
            except Exception:
                log.exception(_FAILED)

    def on_new_request(self, request: "Request") -> None:
        self._safely(lambda side: side.arrived(request))

    def get_num_new_matched_tokens(
        self, request: "Request", num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        # Nothing is loaded here; but it is the last that we hear before the request takes its blocks.
        self._safely(lambda side: side.about_to_start(request, num_computed_tokens, time.monotonic()))
        return 0, False

    def update_state_after_alloc(
        self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int
    ) -> None:
        pass

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        self._safely(lambda side: side.scheduled(scheduler_output, time.monotonic()))
        return _Nothing()

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        self._safely(lambda side: side.finished(request, time.monotonic()))
        return False, None

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, [])

    def ask(self, question: "Callable[[EngineSide], T]") -> T:
        """Puts a question from outside, between two steps.

        Raises:
            NotInUse: if there is nobody to answer it.
        """
        if self.engine_side is None:
            raise NotInUse("AgentConnector is not in use; the engine's log says why")
        try:
            return question(self.engine_side)
        except Exception as error:
            log.exception(_FAILED)
            self._give_up()
            raise NotInUse("AgentConnector has failed; the engine goes on without it") from error

    def _safely(self, act: "Callable[[EngineSide], None]") -> None:
        if self.engine_side is None:
            return
        try:
            act(self.engine_side)
        except Exception:
            log.exception(_FAILED)
            self._give_up()

    def _give_up(self) -> None:
        if self.engine_side is not None:
            self.engine_side.close()
        self.engine_side = None

    # --- worker: none of its business

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(
        self, layer_name: str, kv_layer: "torch.Tensor", attn_metadata: "AttentionMetadata", **kwargs: Any
    ) -> None:
        pass

    def wait_for_save(self) -> None:
        pass
