"""Blocks go out of and into tensors as vLLM makes them for its attention backends."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheLayout,
    KVCacheTensor,
    MLAAttentionSpec,
    create_kv_cache_views,
)

from llmd_agents_vllm.directory_store.layers import BlockLayers, UnknownLayout

BLOCKS = 6
NO_LAYERS: Any = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context={}))
FULL = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=16, dtype=torch.bfloat16)
LATENT = MLAAttentionSpec(block_size=32, num_kv_heads=1, head_size=48, dtype=torch.float32)


def caches(
    spec: FullAttentionSpec, names: list[str], layout: KVCacheLayout, kernel_block: int | None = None
) -> dict[str, torch.Tensor]:
    """The views of vLLM over a buffer of random values."""
    page = spec.page_size_bytes
    raw = torch.randint(0, 100, (BLOCKS * page * len(names),), dtype=torch.int8)
    blocks_first = layout.stride_order[0] == 1
    place = KVCacheTensor(
        size=raw.numel(),
        layers=names,
        layer_stride=page if blocks_first else page * BLOCKS,
        block_stride=page * len(names) if blocks_first else page,
    )
    return dict(
        zip(names, create_kv_cache_views(raw, spec, BLOCKS, layout, place, kernel_block), strict=True)
    )


def config(*groups: tuple[FullAttentionSpec, list[str]]) -> KVCacheConfig:
    return KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(names, spec) for spec, names in groups])


MAKERS: list[Callable[[], tuple[KVCacheConfig, dict[str, torch.Tensor]]]] = [
    lambda: (config((FULL, ["a", "b"])), caches(FULL, ["a", "b"], KVCacheLayout.LBHNC)),
    lambda: (config((FULL, ["a", "b"])), caches(FULL, ["a", "b"], KVCacheLayout.LBNHC)),
    lambda: (config((FULL, ["a", "b"])), caches(FULL, ["a", "b"], KVCacheLayout.LBHNC, 16)),
    lambda: (config((FULL, ["a", "b"])), caches(FULL, ["a", "b"], KVCacheLayout.BLHNC)),
    lambda: (config((LATENT, ["a"])), caches(LATENT, ["a"], KVCacheLayout.LBHNC)),
    lambda: (
        config((FULL, ["a", "b"]), (LATENT, ["c"])),
        caches(FULL, ["a", "b"], KVCacheLayout.LBHNC) | caches(LATENT, ["c"], KVCacheLayout.LBHNC),
    ),
]


@pytest.mark.parametrize("make", MAKERS)
def test_rows_bring_blocks_elsewhere_and_touch_no_other(
    make: Callable[[], tuple[KVCacheConfig, dict[str, torch.Tensor]]],
) -> None:
    kv_cache_config, source = make()
    _, target = make()
    before = {name: tensor.clone() for name, tensor in target.items()}
    out = BlockLayers.of(NO_LAYERS, kv_cache_config, source)
    into = BlockLayers.of(NO_LAYERS, kv_cache_config, target)
    groups = len(kv_cache_config.kv_cache_groups)
    taken, given = [(4, 1), (2, 3)], [(0, 5), (3, 2)]
    rows = out.gather([ids[:groups] for ids in taken])
    assert rows.shape == (
        2,
        sum(g.kv_cache_spec.page_size_bytes * len(g.layer_names) for g in kv_cache_config.kv_cache_groups),
    )
    into.scatter([ids[:groups] for ids in given], rows)

    for group, spec in enumerate(kv_cache_config.kv_cache_groups):
        for name in spec.layer_names:
            ratio = source[name].shape[0] // BLOCKS
            old, new, was = (
                tensor.reshape(BLOCKS, ratio, *tensor.shape[1:]).view(torch.int8)
                for tensor in (source[name], target[name], before[name])
            )
            expected = was.clone()
            for src, dst in zip(taken, given, strict=True):
                expected[dst[group]] = old[src[group]]
            assert torch.equal(new, expected)


def test_the_order_in_memory_does_not_matter_but_the_meaning_does() -> None:
    def layout(
        spec: FullAttentionSpec, names: list[str], order: KVCacheLayout, kernel: int | None = None
    ) -> bytes:
        tensors = caches(spec, names, order, kernel)
        return BlockLayers.of(NO_LAYERS, config((spec, names)), tensors).layout

    first = layout(FULL, ["a", "b"], KVCacheLayout.LBHNC)
    assert first == layout(FULL, ["a", "b"], KVCacheLayout.LBNHC)
    others = {
        layout(FULL, ["a", "c"], KVCacheLayout.LBHNC),
        layout(FULL, ["a", "b"], KVCacheLayout.LBHNC, 16),
        layout(replace(FULL, dtype=torch.float16), ["a", "b"], KVCacheLayout.LBHNC),
        layout(replace(FULL, num_kv_heads=4, head_size=8), ["a", "b"], KVCacheLayout.LBHNC),
    }
    assert len(others - {first}) == 4


def test_attention_backends_and_their_variants_are_told_apart() -> None:
    class Layer:
        def __init__(self, backend: str, isa: str) -> None:
            self.isa = isa
            self.backend = SimpleNamespace(get_name=lambda: backend)

        def get_attn_backend(self) -> Any:
            return self.backend

    layouts = set()
    for backend, isa in (("CPU_ATTN", "vec"), ("CPU_ATTN", "amx"), ("FLASH_ATTN", "")):
        context = {"a": Layer(backend, isa)}
        engine: Any = SimpleNamespace(compilation_config=SimpleNamespace(static_forward_context=context))
        tensors = caches(FULL, ["a"], KVCacheLayout.LBHNC)
        layouts.add(BlockLayers.of(engine, config((FULL, ["a"])), tensors).layout)
    assert len(layouts) == 3


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"a": [torch.zeros(BLOCKS, 2, 32, 32)]},
        {"a": torch.zeros(2, BLOCKS, 32, 2, 16)},
        {"a": torch.zeros(BLOCKS + 1, 2, 32, 32)},
        {"a": torch.zeros(0, 2, 32, 32)},
    ],
)
def test_other_tensors_are_not_guessed_at(tensors: Any) -> None:
    with pytest.raises(UnknownLayout, match="layer a"):
        BlockLayers.of(NO_LAYERS, config((FULL, ["a"])), tensors)


def test_rows_are_bytes() -> None:
    layers = BlockLayers.of(NO_LAYERS, config((FULL, ["a"])), caches(FULL, ["a"], KVCacheLayout.LBHNC))
    rows = layers.gather([(0,)])
    assert rows.dtype == np.uint8
    assert rows.shape == (1, layers.row_bytes)
