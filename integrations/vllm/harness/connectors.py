"""What vLLM is told of connectors: values for its option `--kv-transfer-config`."""

from collections.abc import Mapping
from typing import Any

AGENT_CONNECTOR: Mapping[str, Any] = {
    "kv_connector": "AgentConnector",
    "kv_role": "kv_both",
    "kv_connector_module_path": "llmd_agents_vllm.connector",
}


def agent_connector(**options: Any) -> dict[str, Any]:
    """Returns the configuration of `AgentConnector` with options of its own."""
    return {**AGENT_CONNECTOR, "kv_connector_extra_config": options}


def composed(*connectors: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Returns the configuration of `AgentConnector`, with options of its own, beside others."""
    children = [agent_connector(**options), *map(dict, connectors)]
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": children},
        "kv_load_failure_policy": "recompute",
    }


def host_tier(num_bytes: int, policy: str = "AgentOffloadPolicy") -> dict[str, Any]:
    """Returns the configuration of vLLM's offloading to the host; the spec is ours, as vLLM's refuses CPUs.

    Args:
        num_bytes: that it can hold.
        policy: of eviction: ours, or one of vLLM's.
    """
    extra: dict[str, Any] = {
        "spec_name": "AgentOffloadSpec",
        "spec_module_path": "llmd_agents_vllm.offload.spec",
        "cpu_bytes_to_use": num_bytes,
        "eviction_policy": policy,
    }
    if policy == "AgentOffloadPolicy":
        extra["cache_policy_module_path"] = "llmd_agents_vllm.offload.policy"
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": extra,
        "kv_load_failure_policy": "recompute",
    }


def shared_directory(path: Any) -> dict[str, Any]:
    """Returns the configuration of `SharedDirectoryConnector`."""
    return {
        "kv_connector": "SharedDirectoryConnector",
        "kv_role": "kv_both",
        "kv_connector_module_path": "llmd_agents_vllm.directory_store.connector",
        "kv_connector_extra_config": {"path": str(path)},
        "kv_load_failure_policy": "recompute",
    }
