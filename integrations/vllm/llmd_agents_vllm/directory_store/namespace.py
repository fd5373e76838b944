"""Which engines may exchange blocks: those for which an equal block hash means equal bytes.

vLLM's block hash covers the tokens up to the end of the block, the cache salt, the adapter's name and path
and the contents of images. What it does not cover is described here, and the description's hash names a
folder: engines with different descriptions never see each other's files. How a rank lays out its tensors is
in `layers`.
"""

import json
import platform
from pathlib import Path
from typing import Any

import vllm
from vllm.config import VllmConfig
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import resolve_none_hash_seed
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVQuantMode,
    MLAAttentionSpec,
    iter_layer_specs,
)
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})


def namespace(description: dict[str, Any]) -> bytes:
    """Returns the 16 bytes that stand for a description."""
    return xxh3_128_digest(json.dumps(description, sort_keys=True).encode())


def describe(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> dict[str, Any]:
    """Returns all that must be equal for blocks to be exchanged, as JSON values.

    Weights in a local folder are told apart by their files' names, sizes and times of change, those from a
    hub by the commit. When weights or adapters change under a running engine, its caches must be reset,
    connectors included.
    """
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    seed = resolve_none_hash_seed(get_hash_fn_by_name(cache.prefix_caching_hash_algo))
    return {
        "vllm": vllm.__version__,
        "machine": platform.machine(),
        "model": model.model,
        "revision": [model.revision, getattr(model.hf_config, "_commit_hash", None)],
        "weights": [_weights(Path(model.model)), str(vllm_config.load_config.load_format)],
        "config": _digest(json.dumps(model.hf_config.to_dict(), sort_keys=True, default=str)),
        "quantization": str(model.quantization),
        "dtype": str(model.dtype),
        "cache_dtype": cache.cache_dtype,
        "block_size": [group.kv_cache_spec.block_size for group in kv_cache_config.kv_cache_groups],
        "hash": [cache.prefix_caching_hash_algo, _digest(seed)],
        "tensor_parallel": parallel.tensor_parallel_size,
    }


def reason_to_decline(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> str | None:
    """Returns why blocks of this engine are neither stored nor loaded, or None if they are."""
    cache, parallel = vllm_config.cache_config, vllm_config.parallel_config
    if not cache.prefix_caching_hash_algo.startswith("sha256"):
        return f"{cache.prefix_caching_hash_algo} block hashes can collide; use sha256 or sha256_cbor"
    if parallel.pipeline_parallel_size > 1:
        return "the model is pipeline-parallel"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        return "the model is context-parallel"
    if vllm_config.speculative_config is not None:
        return "speculative decoding keeps KV of its own"
    groups = kv_cache_config.kv_cache_groups
    if not groups:
        return "the model has no KV cache"
    for group in groups:
        if group.host_resident or not group.enable_kv_transfer:
            return "some KV is not exchanged with connectors"
        for spec in iter_layer_specs(group.kv_cache_spec):
            # Subclasses keep other blocks than those of the whole prefix, or more than one state for each.
            if type(spec) not in (FullAttentionSpec, MLAAttentionSpec):
                return f"{type(spec).__name__} is not full attention"
            if spec.kv_quant_mode is not KVQuantMode.NONE:
                return "the KV cache is quantized"
        if group.kv_cache_spec.block_size != (kv_cache_config.hash_block_size or cache.block_size):
            return "the groups of the KV cache have blocks of different sizes"
    return None


def _weights(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(json.dumps(stats))


def _digest(text: str) -> str:
    return xxh3_128_hexdigest(text.encode())
