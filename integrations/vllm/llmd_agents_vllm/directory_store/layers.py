"""Blocks out of and into the KV cache of one worker, as rows of bytes.

vLLM gives a connector one tensor for each layer, [blocks, heads, tokens, values] in this logical order
however it lies in memory; a block of the scheduler may be several of the attention backend's. A row holds
one block of each group of layers: groups in order, within a group its layers in order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from vllm.config import VllmConfig
from vllm.utils.gpu_sync_debug import gpu_sync_allowed
from vllm.v1.kv_cache_interface import KVCacheConfig, group_kernel_blocks
from xxhash import xxh3_128_digest

from .plan import BlockIds

Rows: TypeAlias = npt.NDArray[np.uint8]
"""[blocks, bytes of a block]."""


class UnknownLayout(ValueError):
    """The KV cache is not laid out as this module knows it; says what is different."""


@dataclass(frozen=True)
class BlockLayers:
    """The tensors of all layers, by group, with the scheduler's blocks as their first dimension.

    Attributes:
        layout: 16 bytes, equal only for workers whose rows mean the same.
        row_bytes: length of a row.
    """

    groups: tuple[tuple[torch.Tensor, ...], ...]
    layout: bytes
    row_bytes: int

    @classmethod
    def of(
        cls, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, kv_caches: Mapping[str, torch.Tensor]
    ) -> "BlockLayers":
        """Takes what vLLM registers.

        Raises:
            UnknownLayout: the blocks cannot be told apart in these tensors.
        """
        groups, shapes = [], []
        for group in kv_cache_config.kv_cache_groups:
            layers = []
            for name in group.layer_names:
                tensor = kv_caches.get(name)
                if not isinstance(tensor, torch.Tensor):
                    raise UnknownLayout(f"layer {name} has no single tensor")
                if tensor.dim() != 4 or not tensor.shape[0] or tensor.shape[0] % kv_cache_config.num_blocks:
                    raise UnknownLayout(
                        f"layer {name} is {tuple(tensor.shape)}, which is not "
                        f"[{kv_cache_config.num_blocks} blocks, heads, tokens, values]"
                    )
                view = group_kernel_blocks(tensor, kv_cache_config.num_blocks)
                layers.append(view)
                shapes.append([name, list(view.shape[1:]), str(view.dtype), *_attention(vllm_config, name)])
            groups.append(tuple(layers))
        row_bytes = sum(view[0].numel() * view.element_size() for group in groups for view in group)
        return cls(tuple(groups), xxh3_128_digest(json.dumps(shapes).encode()), row_bytes)

    def gather(self, blocks: Sequence[BlockIds]) -> Rows:
        """Copies blocks to the host."""
        parts = []
        with gpu_sync_allowed():  # the copies are this connector's purpose
            for group, layers in enumerate(self.groups):
                for layer in layers:
                    picked = layer.index_select(0, _index(blocks, group, layer.device))
                    parts.append(picked.reshape(len(blocks), -1).contiguous().view(torch.uint8))
            rows: Rows = torch.cat(parts, 1).cpu().numpy()
        return rows

    def scatter(self, blocks: Sequence[BlockIds], rows: Rows) -> None:
        """Copies rows into blocks."""
        start = 0
        with gpu_sync_allowed():
            for group, layers in enumerate(self.groups):
                for layer in layers:
                    width = layer[0].numel() * layer.element_size()
                    part = torch.from_numpy(rows)[:, start : start + width].contiguous().to(layer.device)
                    picked = part.view(layer.dtype).reshape(len(blocks), *layer.shape[1:])
                    layer.index_copy_(0, _index(blocks, group, layer.device), picked)
                    start += width


def _index(blocks: Sequence[BlockIds], group: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([ids[group] for ids in blocks], dtype=torch.long, device=device)


def _attention(vllm_config: VllmConfig, layer_name: str) -> tuple[str, str]:
    """The layer's attention backend and its variant, which decide what the values of a block mean."""
    layer = vllm_config.compilation_config.static_forward_context.get(layer_name)
    backend = layer.get_attn_backend().get_name() if hasattr(layer, "get_attn_backend") else ""
    return backend, str(getattr(layer, "isa", ""))
