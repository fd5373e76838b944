"""Environment variables under which the harness runs vLLM."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SETTINGS: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # A model this small gains nothing from more threads, and several engines share few cores: threads that
    # spin while they wait would take the cores from each other, as would engines bound to the same one.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TOKENIZERS_PARALLELISM": "false",
    # Block hashes in events as what they are: 32 bytes, equal in all engines.
    "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0",
}


def variables(home: Path) -> dict[str, str]:
    """Returns the settings, with configuration of vLLM and caches of its libraries kept under `home`."""
    home.mkdir(parents=True, exist_ok=True)
    # Beside what is installed: an engine takes ten seconds to find out what no earlier one has noted there.
    cache = Path(sys.prefix) / "vllm-cache"
    return {**SETTINGS, "HOME": str(home), "VLLM_CACHE_ROOT": str(cache), "HF_HOME": str(home / "hf")}
