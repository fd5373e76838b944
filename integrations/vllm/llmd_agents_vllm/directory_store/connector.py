"""`SharedDirectoryConnector`: each full KV block is written once and read by any engine with that directory.

For tests, demonstrations and several engines on one host: it reads and writes while the engine waits. For
production there are vLLM's `OffloadingConnector` with its file-system tier, LMCache, Mooncake and NIXL.

    {"kv_connector": "SharedDirectoryConnector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
     "kv_connector_module_path": "llmd_agents_vllm.directory_store",
     "kv_connector_extra_config": {"path": "/var/cache/kv"}}

Settings: `path`, the directory; `max_bytes`, about how much it may hold (no limit by default);
`save_outputs`, whether blocks with generated tokens are written too (yes by default).

A request waits for its load before it is scheduled, so that vLLM's prefix cache learns of the blocks only
once they are verified. When a load fails, vLLM takes the request back and looks it up again; by then the
damaged file is gone or known to be of no use, and what is missing is computed. vLLM does so under the policy
`recompute` of the outermost configuration: within a `MultiConnector` it belongs there as well as here.
"""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from weakref import ReferenceType, ref

from pydantic import Field
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from ..options import StrictOptions
from ..startup_check import Part, usable
from .copier import Copier
from .layers import BlockLayers, UnknownLayout
from .namespace import describe, namespace, reason_to_decline
from .plan import Done, Plan
from .planner import Planner
from .store import BlockFiles, log

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class Settings(StrictOptions):
    """What `kv_connector_extra_config` says."""

    where: ClassVar[str] = "SharedDirectoryConnector"

    path: Annotated[str, Field(min_length=1)]
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    save_outputs: bool = True

    @property
    def directory(self) -> Path:
        return Path(self.path).absolute()


_newest: "ReferenceType[SharedDirectoryConnector] | None" = None


def store_of_process() -> "SharedDirectoryConnector | None":
    """Returns the scheduler's half of the connector that was made last in this process, while it lives."""
    return _newest() if _newest is not None else None


class SharedDirectoryConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module. An engine that cannot be served correctly runs as without it and says why, once.

    Raises:
        BadOptions: a setting is wrong.
        ValueError: `kv_load_failure_policy` is not "recompute".
    """

    _cache_hit_source = CacheHitSource.DISK

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = self._kv_transfer_config
        self._settings = Settings.of(transfer.kv_connector_extra_config)
        if transfer.kv_load_failure_policy != "recompute":
            raise ValueError(
                'SharedDirectoryConnector needs "kv_load_failure_policy": "recompute", here and in the '
                "configuration of a MultiConnector around it: else a damaged file fails the request"
            )
        self._planner: Planner | None = None
        self._copier: Copier | None = None
        self._layers: BlockLayers | None = None
        self._declined: str | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._begin_planning(vllm_config, kv_cache_config)

    def _begin_planning(self, vllm_config: "VllmConfig", kv_cache_config: "KVCacheConfig") -> None:
        misfit = None if usable(Part.DIRECTORY_STORE) else "vLLM is not as expected"
        reason = misfit or reason_to_decline(vllm_config, kv_cache_config)
        if reason is not None:
            self._decline(reason)
        else:
            description = describe(vllm_config, kv_cache_config)
            log.info(
                "KV blocks are shared in %s among engines with %s", self._settings.directory, description
            )
            name = namespace(description)
            ranks = range(vllm_config.parallel_config.tensor_parallel_size)
            files = [BlockFiles(self._settings.directory, name, rank=rank) for rank in ranks]
            files[0].remove_unfinished(time.time())
            self._planner = Planner(
                files,
                name,
                kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size,
                save_outputs=self._settings.save_outputs,
            )
        global _newest
        _newest = ref(self)

    def _decline(self, reason: str) -> None:
        self._planner = None
        self._declined = reason
        log.warning("KV blocks are neither written to nor read from %s: %s", self._settings.directory, reason)

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a block that was not written is a miss later, nothing more

    @property
    def declined(self) -> str | None:
        """Why nothing is stored and loaded, or None."""
        return self._declined

    @property
    def counts(self) -> Counter[str]:
        """How often what happened to files since the engine started: "read", "written", "corrupt", …

        Summed over ranks; the scheduler's half has them.
        """
        return self._planner.counts if self._planner is not None else Counter()

    def holds(self, block_hash: bytes) -> bool:
        """Whether the directory has the block, as far as its files' headers and sizes show."""
        return self._planner is not None and self._planner.holds(block_hash, time.monotonic())

    # In the scheduler

    def on_new_request(self, request: "Request") -> None:
        if self._planner is not None:
            self._planner.arrived(request)

    def get_num_new_matched_tokens(
        self, request: "Request", num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._planner is None or not self._kv_transfer_config.is_kv_consumer:
            return 0, False
        tokens = self._planner.loadable(request, num_computed_tokens, time.monotonic())
        return tokens, tokens > 0

    def update_state_after_alloc(
        self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int
    ) -> None:
        if self._planner is not None:
            self._planner.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> Plan:
        if self._planner is None:
            return Plan(b"")
        plan = self._planner.plan(scheduler_output)
        if not self._kv_transfer_config.is_kv_producer:
            plan.saves.clear()
        return plan

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        done = connector_output.kv_connector_worker_meta
        if self._planner is None or not isinstance(done, Done):
            return
        self._planner.done(done)
        if done.declined is not None:
            self._decline(done.declined)

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._planner is not None:
            self._planner.finished(request.request_id)
        return False, None

    def reset_cache(self) -> bool | None:
        """Removes the blocks of all engines that share with this one, as vLLM asks for when weights change.

        vLLM calls it only where connectors are included: `reset_prefix_cache` with `reset_connector` (over
        HTTP `reset_external=true`), and a pause or sleep that clears caches. Returns False when files are
        left; then nothing is loaded any more.
        """
        return self._planner.forget() if self._planner is not None else None

    # In a worker

    def register_kv_caches(self, kv_caches: "dict[str, torch.Tensor]") -> None:
        try:
            self._layers = BlockLayers.of(self._vllm_config, self._kv_cache_config, kv_caches)
        except UnknownLayout as unknown:
            self._declined = str(unknown)

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        plan = self._plan()
        if self._copier is None and plan.namespace and self._layers is not None:
            rank = self._vllm_config.parallel_config.rank
            files = BlockFiles(
                self._settings.directory,
                plan.namespace,
                rank=rank,
                layout=self._layers.layout,
                max_bytes=self._settings.max_bytes,
            )
            self._copier = Copier(self._layers, files)
        if self._copier is not None:
            self._copier.load(plan)

    def wait_for_save(self) -> None:
        if self._copier is not None:
            self._copier.save(self._plan())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        if self._copier is not None:
            return self._copier.take_results()
        waiting = set(self._plan().loads)
        return KVConnectorTransferResults(finished_recving=waiting, failed_recving=set(waiting))

    def build_connector_worker_meta(self) -> Done | None:
        if self._copier is not None:
            return self._copier.take_done()
        return Done(declined=self._declined) if self._declined is not None else None

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(
        self, layer_name: str, kv_layer: "torch.Tensor", attn_metadata: "AttentionMetadata", **kwargs: Any
    ) -> None:
        pass

    def _plan(self) -> Plan:
        plan: KVConnectorMetadata = self._get_connector_metadata()
        assert isinstance(plan, Plan)
        return plan
