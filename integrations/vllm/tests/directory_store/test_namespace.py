"""Only engines for which equal block hashes mean equal bytes see each other's files."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    KVQuantMode,
    MLAAttentionSpec,
    SinkFullAttentionSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

from llmd_agents_vllm.directory_store.namespace import describe, namespace, reason_to_decline

FULL = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32)
LATENT = MLAAttentionSpec(block_size=32, num_kv_heads=1, head_size=32, dtype=torch.float32)
WINDOW = SlidingWindowSpec(
    block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32, sliding_window=64
)


def engine(model: Path, **options: Any) -> VllmConfig:
    settings = {"dtype": "float32", "block_size": 32, "max_model_len": 1024, "enforce_eager": True, **options}
    return EngineArgs(model=str(model), **settings).create_engine_config()


def cache(*specs: KVCacheSpec) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layer {i}"], spec) for i, spec in enumerate(specs)]
    return KVCacheConfig(100, [], groups)


def name(config: VllmConfig, kv_cache: KVCacheConfig | None = None) -> bytes:
    return namespace(describe(config, kv_cache or cache(FULL)))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_engines_that_differ_in_what_matters_have_folders_of_their_own(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = name(engine(model))
    assert name(engine(model)) == first
    assert name(engine(model, max_model_len=512, max_num_seqs=7, seed=5)) == first
    others = [
        name(engine(model, dtype="bfloat16")),
        name(engine(model), cache(replace(FULL, block_size=64))),
        name(engine(model, hf_overrides={"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}})),
        name(engine(model, revision="main")),
        name(engine(model, load_format="dummy")),
        name(engine(model, prefix_caching_hash_algo="sha256_cbor")),
    ]
    parallel = engine(model)
    parallel.parallel_config.tensor_parallel_size = 2
    others.append(name(parallel))
    with monkeypatch.context() as environment:
        environment.setenv("PYTHONHASHSEED", "7")
        others.append(name(engine(model)))
    others.append(name(engine(Path(shutil.copytree(model, model.with_name("other"))))))
    (weights,) = model.glob("*.safetensors")
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    others.append(name(engine(model)))
    assert len({first, *others}) == 1 + len(others)


def test_a_description_is_json(model: Path) -> None:
    assert json.loads(json.dumps(describe(engine(model), cache(FULL))))["model"] == str(model)


@pytest.mark.parametrize(
    "specs",
    [(FULL,), (LATENT,), (FULL, replace(FULL, head_size=64)), (replace(FULL, sliding_window=64),)],
)
def test_full_attention_is_served(tiny_model: Path, specs: tuple[KVCacheSpec, ...]) -> None:
    assert reason_to_decline(engine(tiny_model), cache(*specs)) is None


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ((WINDOW,), "SlidingWindowSpec is not full attention"),
        ((FULL, WINDOW), "SlidingWindowSpec is not full attention"),
        (
            (UniformTypeKVCacheSpecs(block_size=32, kv_cache_specs={"a": FULL, "b": WINDOW}),),
            "SlidingWindowSpec is not full attention",
        ),
        (
            (
                SinkFullAttentionSpec(
                    block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32, sink_len=4
                ),
            ),
            "SinkFullAttentionSpec is not full attention",
        ),
        ((replace(FULL, kv_quant_mode=KVQuantMode.FP8_PER_TENSOR),), "the KV cache is quantized"),
        ((FULL, replace(FULL, block_size=64)), "the groups of the KV cache have blocks of different sizes"),
        ((), "the model has no KV cache"),
    ],
)
def test_other_caches_are_declined(tiny_model: Path, specs: tuple[KVCacheSpec, ...], reason: str) -> None:
    assert reason_to_decline(engine(tiny_model), cache(*specs)) == reason


def test_kv_that_is_not_for_connectors_is_declined(tiny_model: Path) -> None:
    for flag in ({"host_resident": True}, {"enable_kv_transfer": False}):
        kept = KVCacheConfig(100, [], [KVCacheGroupSpec(["layer"], FULL, **flag)])
        assert reason_to_decline(engine(tiny_model), kept) == "some KV is not exchanged with connectors"


def test_weak_hashes_and_shared_models_are_declined(tiny_model: Path) -> None:
    weak = engine(tiny_model, prefix_caching_hash_algo="xxhash")
    assert (
        reason_to_decline(weak, cache(FULL)) == "xxhash block hashes can collide; use sha256 or sha256_cbor"
    )
    for setting, reason in (
        ("pipeline_parallel_size", "the model is pipeline-parallel"),
        ("decode_context_parallel_size", "the model is context-parallel"),
        ("prefill_context_parallel_size", "the model is context-parallel"),
    ):
        config = engine(tiny_model)
        setattr(config.parallel_config, setting, 2)
        assert reason_to_decline(config, cache(FULL)) == reason


def test_speculative_decoding_is_declined(tiny_model: Path) -> None:
    drafts = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    config = engine(tiny_model, speculative_config=drafts)
    assert reason_to_decline(config, cache(FULL)) == "speculative decoding keeps KV of its own"
