"""A real vLLM engine inside this process, whose scheduler, connector and blocks are at hand."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import REGISTRY, generate_latest

from .counters import Counters, parse
from .shared_memory import remove_regions, with_engine_id

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

Prompt: TypeAlias = Sequence[int] | Sequence[Mapping[str, Any]]
"""Token ids, or the messages of a chat."""


@dataclass(frozen=True)
class Answer:
    """What became of one request; tokens are ids."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    cached_tokens: int
    kv_transfer_params: Mapping[str, Any] | None


@dataclass(frozen=True)
class InProcessEngine:
    """One engine, driven by the calls to it: between them nothing runs."""

    llm: "LLM"

    @property
    def core(self) -> "EngineCore":
        return self.llm.llm_engine.engine_core.engine_core

    @property
    def scheduler(self) -> "Scheduler":
        return self.core.scheduler

    @property
    def connector(self) -> "KVConnectorBase_V1 | None":
        """The scheduler's side of the connector, if one is configured."""
        return self.scheduler.get_kv_connector()

    @property
    def block_pool(self) -> "BlockPool":
        return self.scheduler.kv_cache_manager.block_pool

    def counters(self) -> Counters:
        """Returns what engines of this process have counted; vLLM begins anew with each engine."""
        return parse(generate_latest(REGISTRY).decode())

    def generate(
        self, prompt: Prompt, *, kv_transfer_params: Mapping[str, Any] | None = None, **sampling: Any
    ) -> Answer:
        """Answers one request; 8 tokens, unless `sampling` says otherwise."""
        return self.generate_all([prompt], kv_transfer_params=kv_transfer_params, **sampling)[0]

    def generate_all(
        self,
        prompts: Sequence[Prompt],
        *,
        kv_transfer_params: Mapping[str, Any] | None = None,
        priorities: Sequence[int] | None = None,
        **sampling: Any,
    ) -> list[Answer]:
        """Answers requests that all arrive at once.

        Args:
            priorities: one for each prompt, with `scheduling_policy="priority"`; lower runs earlier.
        """
        from vllm import SamplingParams, TokensPrompt

        extra = {"kv_transfer_params": dict(kv_transfer_params)} if kv_transfer_params is not None else None
        sampling = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True, "extra_args": extra, **sampling}
        tokens = [TokensPrompt(prompt_token_ids=self.tokens(prompt)) for prompt in prompts]
        results = self.llm.generate(
            tokens,
            SamplingParams(**sampling),
            use_tqdm=False,
            priority=None if priorities is None else list(priorities),
        )
        return [
            Answer(
                tuple(result.prompt_token_ids or ()),
                tuple(result.outputs[0].token_ids),
                result.num_cached_tokens or 0,
                result.kv_transfer_params,
            )
            for result in results
        ]

    def tokens(self, prompt: Prompt) -> list[int]:
        """Returns the token ids of a chat, as `vllm serve` would make them; those of a prompt are it."""
        items: list[Any] = list(prompt)
        if items and isinstance(items[0], int):
            return items
        encoded = self.llm.get_tokenizer().apply_chat_template(
            items, add_generation_prompt=True, return_dict=True
        )
        return list(encoded["input_ids"])


@contextmanager
def in_process(
    model: Path,
    *,
    num_blocks: int = 160,
    max_model_len: int = 4096,
    kv_transfer_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[InProcessEngine]:
    """Makes an engine in this process and takes it down again; one at a time.

    The environment must be `environment.variables` from before vLLM was imported.

    Args:
        num_blocks: blocks of 32 tokens on the device; more than max_model_len / 32, as one is never used.
        kv_transfer_config: as vLLM's option, without `engine_id`.
        options: further options of `vllm.LLM`, `scheduler_cls` for one.
    """
    import torch
    from vllm import LLM

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    config = None if kv_transfer_config is None else with_engine_id(kv_transfer_config)
    set_num_threads = torch.set_num_threads
    llm: LLM | None = None
    try:
        llm = LLM(
            str(model),
            **{
                "dtype": "float32",
                "enforce_eager": True,
                "block_size": 32,
                "num_gpu_blocks_override": num_blocks,
                "max_model_len": max_model_len,
                "enable_prefix_caching": True,
                "kv_transfer_config": config,
                "disable_log_stats": False,
                **options,
            },
        )
        yield InProcessEngine(llm)
    finally:
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            del llm
        torch.set_num_threads = set_num_threads  # vLLM puts a function of its own there
        gc.collect()
        if config is not None:
            remove_regions(config["engine_id"])
