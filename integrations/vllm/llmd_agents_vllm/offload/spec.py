"""`AgentOffloadSpec`: vLLM's tiering offload with `AgentOffloadPolicy`, its options, and the CPU backend.

--kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
  "kv_connector_extra_config": {"spec_name": "AgentOffloadSpec", "spec_module_path":
    "llmd_agents_vllm.offload.spec", "cpu_bytes_to_use": 100000000000, "retention_budget": 0.9,
    "secondary_tiers": [{"type": "fs", "root_dir": "/var/cache/vllm"}]}}'
"""

from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingManager, OffloadingWorker
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from . import settings
from .host_worker import HostMemoryWorker

POLICY = "AgentOffloadPolicy"
POLICY_MODULE = "llmd_agents_vllm.offload.policy"


class AgentOffloadSpec(TieringOffloadingSpec):
    """Takes all options of `TieringOffloadingSpec`, and those of `offload.settings`.

    Raises:
        ValueError: if an option cannot be what was meant (`BadOptions` for those of ours).
    """

    def __init__(self, config: OffloadingConfig) -> None:
        self._settings = settings.settings_of(config.extra_config)
        self._on_cpu: HostMemoryWorker | None = None
        super().__init__(config)
        if "eviction_policy" not in config.extra_config:
            self.eviction_policy = POLICY
            self.cache_policy_module_path = POLICY_MODULE
        if self.kv_bytes_per_chunk and not self.num_chunks:
            raise ValueError(
                f"cpu_bytes_to_use={self.extra_config['cpu_bytes_to_use']} in kv_connector_extra_config is "
                f"too little for one chunk, which takes {self.kv_bytes_per_chunk} bytes"
            )
        if current_platform.is_cpu() and config.canonical_layout:
            raise ValueError("canonical_layout in kv_connector_extra_config needs a GPU")

    def get_manager(self) -> OffloadingManager:
        with settings.in_force(self._settings):
            return super().get_manager()

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if not current_platform.is_cpu():
            return super().get_worker(kv_caches)
        if self._on_cpu is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0 if self.replicated_layout else self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            try:
                self._on_cpu = HostMemoryWorker(kv_caches, self.blocks_per_chunk, region)
            except Exception:
                region.cleanup()
                raise
        return self._on_cpu
