"""A connector that moves nothing and answers with what a request carried; an engine loads it by name."""

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)

from llmd_agents_vllm.carried import KEY, read


class _Nothing(KVConnectorMetadata):
    pass


class EchoConnector(KVConnectorBase_V1, SupportsHMA):
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return _Nothing()

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any]]:
        params = request.kv_transfer_params or {}
        carried = read(params)
        echo: dict[str, Any] = {"others": {key: value for key, value in params.items() if key != KEY}}
        if carried is not None:
            echo["links"] = [[digest.hex(), size] for digest, size in carried.links]
            echo["program"] = carried.hints.program.id if carried.hints is not None else None
        return False, echo

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any]]:
        return self.request_finished_all_groups(request, (block_ids,))

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass
