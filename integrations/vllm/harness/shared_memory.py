"""What vLLM's offloading leaves in shared memory, by the engine that left it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

_FOLDER = Path("/dev/shm")


def with_engine_id(kv_transfer_config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration with an engine id, by which `remove_regions` knows what the engine left."""
    return {"engine_id": f"llmd-agents-{uuid4().hex}", **kv_transfer_config}


def remove_regions(engine_id: str) -> None:
    for region in _FOLDER.glob(f"vllm_offload_{engine_id}*"):
        region.unlink(missing_ok=True)
