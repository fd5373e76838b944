"""What of vLLM each part uses beyond its documented interfaces, checked when the engine starts.

A part whose table does not fit the installed vLLM is not used, and one log line says what is missing;
with `LLMD_AGENTS_ON_MISMATCH=refuse` the engine does not start instead.
"""

import dis
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from typing import Any, Final, TypeAlias

TESTED_VERSIONS: Final = ("0.32.",)
"""Beginnings of the vLLM versions that the tests run with."""

MODE_VARIABLE: Final = "LLMD_AGENTS_ON_MISMATCH"

log = logging.getLogger("vllm.llmd_agents")


class Mismatch(RuntimeError):
    """This vLLM lacks what a part needs, and the operator asked to refuse that."""


class BadMode(ValueError):
    """`LLMD_AGENTS_ON_MISMATCH` is neither `disable` nor `refuse`."""


class OnMismatch(StrEnum):
    DISABLE = "disable"
    REFUSE = "refuse"


class Part(StrEnum):
    SCHEDULER = "scheduler"
    CONNECTOR = "connector"
    ENGINE_CALL = "engine call"
    ENDPOINT = "endpoint"
    OFFLOAD = "offload"
    DIRECTORY_STORE = "directory store"


@dataclass(frozen=True, slots=True)
class Calls:
    """We call it with these arguments, in this order; more may follow if they have defaults.

    `where` is `module:function` or `module:Class.method`; `self` is not named.
    """

    where: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overrides:
    """vLLM calls our method in its place: with exactly these parameters."""

    where: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Has:
    """It exists: a class, a class attribute, or an attribute that `__init__` sets."""

    where: str


Need: TypeAlias = Calls | Overrides | Has
Import: TypeAlias = Callable[[str], Any]

_SCHED = "vllm.v1.core.sched"
_POOL = "vllm.v1.core.block_pool"
_HASHES = "vllm.v1.core.kv_cache_utils"
_QUEUE = f"{_HASHES}:FreeKVCacheBlockQueue"
_METRICS = "vllm.v1.core.kv_cache_metrics:KVCacheMetricsCollector"
_REQUEST = "vllm.v1.request:Request"
_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1"
_OFFLOAD = "vllm.v1.kv_offload.base"
_POLICY = "vllm.v1.kv_offload.cpu.policies.base:CachePolicy"

NEEDS: Final[Mapping[Part, Sequence[Need]]] = {
    Part.SCHEDULER: (
        Has(f"{_SCHED}.scheduler:Scheduler.waiting"),
        Has(f"{_SCHED}.scheduler:Scheduler.kv_holding_waiting"),
        Has(f"{_SCHED}.scheduler:Scheduler.running"),
        Has(f"{_SCHED}.scheduler:Scheduler.policy"),
        Has(f"{_SCHED}.scheduler:Scheduler.current_step"),
        Has(f"{_SCHED}.scheduler:Scheduler.connector"),
        Has(f"{_SCHED}.scheduler:Scheduler.kv_cache_manager"),
        Has(f"{_SCHED}.scheduler:Scheduler.hash_block_size"),
        Has(f"{_SCHED}.request_queue:SchedulingPolicy.PRIORITY"),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.add_request", ("request",)),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.pop_request"),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.peek_request"),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.prepend_request", ("request",)),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.prepend_requests", ("requests",)),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.remove_request", ("request",)),
        Overrides(f"{_SCHED}.request_queue:RequestQueue.remove_requests", ("requests",)),
        Calls("vllm.v1.core.kv_cache_manager:KVCacheManager.prefix_cache_lookup_enabled", ("request",)),
        Has("vllm.v1.core.kv_cache_manager:KVCacheManager.block_pool"),
        Has("vllm.v1.core.kv_cache_manager:KVCacheManager.coordinator"),
        Has("vllm.v1.core.kv_cache_manager:KVCacheManager.enable_caching"),
        Has("vllm.v1.core.kv_cache_coordinator:KVCacheCoordinator.single_type_managers"),
        Has("vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager.block_size"),
        Has("vllm.v1.core.single_type_kv_cache_manager:FullAttentionManager.kv_cache_group_id"),
        Calls(f"{_POOL}:BlockPool.get_cached_block", ("block_hash", "kv_cache_group_ids")),
        Has(f"{_REQUEST}.priority"),
        Has(f"{_REQUEST}.status"),
        Has(f"{_REQUEST}.block_hashes"),
        Has(f"{_REQUEST}.kv_transfer_params"),
        Has(f"{_REQUEST}.num_tokens"),
        Has(f"{_REQUEST}.num_output_tokens"),
        Has(f"{_REQUEST}.cache_salt"),
        Has("vllm.v1.request:RequestStatus.PREEMPTED"),
        Has("vllm.v1.request:RequestStatus.RUNNING"),
    ),
    Part.CONNECTOR: (
        Overrides(f"{_CONNECTOR}.get_num_new_matched_tokens", ("request", "num_computed_tokens")),
        Overrides(f"{_CONNECTOR}.update_state_after_alloc", ("request", "blocks", "num_external_tokens")),
        Overrides(f"{_CONNECTOR}.build_connector_meta", ("scheduler_output",)),
        Overrides(f"{_CONNECTOR}.on_new_request", ("request",)),
        Overrides(f"{_CONNECTOR}.request_finished", ("request", "block_ids")),
        Overrides(f"{_CONNECTOR}.bind_gpu_block_pool", ("gpu_block_pool",)),
        Has(f"{_REQUEST}.kv_transfer_params"),
        Has(f"{_REQUEST}.block_hashes"),
        Has(f"{_REQUEST}.num_computed_tokens"),
        Has(f"{_REQUEST}.num_prompt_tokens"),
        Has(f"{_REQUEST}.num_tokens"),
        Has(f"{_REQUEST}.prompt_token_ids"),
        Has(f"{_REQUEST}.lora_request"),
        Has(f"{_REQUEST}.mm_features"),
        Has(f"{_REQUEST}.cache_salt"),
        Has(f"{_SCHED}.output:SchedulerOutput.num_scheduled_tokens"),
        Has(f"{_SCHED}.output:SchedulerOutput.preempted_req_ids"),
        Has(f"{_POOL}:BlockPool.enable_caching"),
        Has(f"{_POOL}:BlockPool.free_block_queue"),
        Has(f"{_POOL}:BlockPool.num_gpu_blocks"),
        Has(f"{_POOL}:BlockPool.hash_block_size"),
        Has(f"{_POOL}:BlockPool.cached_block_hash_to_block"),
        Has(f"{_POOL}:BlockPool.metrics_collector"),
        Calls(f"{_POOL}:BlockPool.get_num_free_blocks"),
        Calls(f"{_POOL}:BlockPool.evict_blocks", ("block_ids",)),
        Calls(f"{_POOL}:BlockHashToBlockMap.get_one_block", ("key",)),
        Calls(f"{_POOL}:BlockHashToBlockMap.__len__"),
        Has(f"{_HASHES}:KVCacheBlock.block_id"),
        Has(f"{_HASHES}:KVCacheBlock.ref_cnt"),
        Has(f"{_HASHES}:KVCacheBlock.block_hash"),
        Has(f"{_HASHES}:KVCacheBlock.is_null"),
        Has(f"{_HASHES}:KVCacheBlock.next_free_block"),
        Has(f"{_QUEUE}.fake_free_list_head"),
        Has(f"{_QUEUE}.fake_free_list_tail"),
        Calls(f"{_QUEUE}.remove", ("block",)),
        Calls(f"{_QUEUE}.prepend_n", ("blocks",)),
        Overrides(f"{_METRICS}.on_block_allocated", ("block",)),
        Overrides(f"{_METRICS}.on_block_accessed", ("block",)),
        Overrides(f"{_METRICS}.on_block_evicted", ("block",)),
        Overrides(f"{_METRICS}.reset"),
        Calls(f"{_HASHES}:get_block_hash", ("key",)),
        Calls(f"{_HASHES}:get_group_id", ("key",)),
        Calls(f"{_HASHES}:make_block_hash_with_group_id", ("block_hash", "group_id")),
        Calls(f"{_HASHES}:resolve_block_hashes", ("block_hashes", "hash_block_size", "block_size")),
        Has("vllm.v1.kv_cache_interface:FullAttentionSpec"),
    ),
    Part.ENGINE_CALL: (
        Has("vllm.v1.engine.core:EngineCore.scheduler"),
        Calls(f"{_SCHED}.scheduler:Scheduler.get_kv_connector"),
    ),
    Part.ENDPOINT: (
        Has("vllm.inputs:tokens_input"),
        Has("vllm.v1.engine.async_llm:AsyncLLM.engine_core"),
        Has("vllm.v1.engine.core_client:MPClient.core_engines"),
        Calls("vllm.v1.engine.core_client:AsyncMPClient.call_utility_async", ("method",)),
    ),
    Part.OFFLOAD: (
        Has(_POLICY),
        Overrides(f"{_POLICY}.__init__", ("cache_capacity",)),
        Overrides(f"{_POLICY}.get", ("key",)),
        Overrides(f"{_POLICY}.insert", ("key", "chunk")),
        Overrides(f"{_POLICY}.remove", ("key",)),
        Overrides(f"{_POLICY}.touch", ("keys", "req_context")),
        Overrides(f"{_POLICY}.evict", ("n", "protected")),
        Overrides(f"{_POLICY}.clear"),
        Overrides(f"{_POLICY}.on_store_miss", ("keys", "req_context")),
        Overrides(
            f"{_POLICY}.on_request_finished",
            ("key_groups", "insertion_only_keys", "reused_keys", "req_context"),
        ),
        Overrides(f"{_POLICY}.mark_evictable", ("key",)),
        Overrides(f"{_POLICY}.mark_non_evictable", ("key",)),
        Has("vllm.v1.kv_offload.cpu.policies.lru:LRUCachePolicy"),
        Calls(f"{_OFFLOAD}:ReqContext.get_state", ("cls",)),
        Calls(f"{_OFFLOAD}:ReqContext.set_state", ("val",)),
        Calls(f"{_OFFLOAD}:ReqContext.get_offload_key_position", ("key",)),
        Calls(f"{_OFFLOAD}:make_offload_key", ("block_hash", "group_idx")),
        Calls(f"{_OFFLOAD}:get_offload_block_hash", ("key",)),
        Calls(f"{_OFFLOAD}:get_offload_group_idx", ("key",)),
    ),
    Part.DIRECTORY_STORE: (
        Overrides(f"{_CONNECTOR}.start_load_kv", ("forward_context",)),
        Overrides(f"{_CONNECTOR}.wait_for_layer_load", ("layer_name",)),
        Overrides(f"{_CONNECTOR}.save_kv_layer", ("layer_name", "kv_layer", "attn_metadata")),
        Overrides(f"{_CONNECTOR}.wait_for_save"),
    ),
}
"""A part that starts to use something more of vLLM adds a line here."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a part cannot be used; as text, one line for the log."""

    part: Part
    version: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"vLLM {self.version} does not fit the {self.part} of llmd-agents: {'; '.join(self.missing)}"


def check(part: Part, *, import_module: Import = importlib.import_module) -> Problem | None:
    """Returns what of vLLM the part lacks, or None."""
    missing = tuple(misfits(NEEDS[part], import_module))
    return Problem(part, _version(), missing) if missing else None


def usable(part: Part, on_mismatch: OnMismatch | None = None) -> bool:
    """Returns whether a part can be used; logs one line when it cannot.

    Args:
        on_mismatch: by default as the environment says.

    Raises:
        Mismatch: if it cannot and the mode is `refuse`.
        BadMode: if the environment holds another mode.
    """
    mode = mode_of(os.environ) if on_mismatch is None else on_mismatch
    problem = check(part)
    if problem is None:
        if not (version := _version()).startswith(TESTED_VERSIONS):
            log.warning("The %s of llmd-agents fits vLLM %s, but was not tested with it", part, version)
        return True
    if mode == OnMismatch.REFUSE:
        raise Mismatch(str(problem))
    log.error("%s. It stays off; the engine runs without it", problem)
    return False


def mode_of(environment: Mapping[str, str]) -> OnMismatch:
    """Returns what the operator wants; `disable` by default.

    Raises:
        BadMode: if it is neither.
    """
    value = environment.get(MODE_VARIABLE, "").strip() or OnMismatch.DISABLE
    try:
        return OnMismatch(value)
    except ValueError:
        raise BadMode(f"{MODE_VARIABLE} must be disable or refuse, not {value!r}") from None


def misfits(needs: Sequence[Need], import_module: Import) -> Iterator[str]:
    """Yields one phrase for each need that is not met."""
    for need in needs:
        try:
            owner, name, target = _find(need.where, import_module)
        except LookupError as error:
            yield str(error)
            continue
        if isinstance(need, Has):
            continue
        # A static or class method as it stands in the class; the latter takes the class first.
        function = target.__func__ if isinstance(target, staticmethod | classmethod) else target
        bound = inspect.isclass(owner) and not isinstance(target, staticmethod)
        if not callable(function):
            yield f"{need.where} is no function"
        elif (problem := _signature_problem(need, function, bound=bound)) is not None:
            yield f"{name} {problem}"


def _find(where: str, import_module: Import) -> tuple[Any, str, Any]:
    """Returns owner, name and value of what `where` names; the value is None for what `__init__` sets.

    Raises:
        LookupError: if there is no such thing.
    """
    module_name, _, path = where.partition(":")
    try:
        owner = import_module(module_name)
    except ImportError as error:
        raise LookupError(f"{module_name} cannot be imported ({error})") from None
    *holders, name = path.split(".")
    for holder in holders:
        if not hasattr(owner, holder):
            raise LookupError(f"{module_name} has no {holder}")
        owner = getattr(owner, holder)
    if hasattr(owner, name):
        return owner, path, inspect.getattr_static(owner, name)
    if inspect.isclass(owner) and name in _instance_attributes(owner):
        return None, path, None
    raise LookupError(f"{module_name} has no {path}")


def _instance_attributes(cls: type) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__:
        names.update(inspect.get_annotations(base))
        code = getattr(base.__dict__.get("__init__"), "__code__", None)
        if code is not None:
            names.update(step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR")
    return names


def _signature_problem(need: Calls | Overrides, function: Callable[..., Any], *, bound: bool) -> str | None:
    parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    named = [parameter for parameter in parameters if parameter.kind not in _REST]
    names = tuple(parameter.name for parameter in named)
    expected = need.parameters
    if isinstance(need, Overrides):
        fits = names == expected
    else:
        fits = names[: len(expected)] == expected and all(
            parameter.default is not parameter.empty for parameter in named[len(expected) :]
        )
    if fits:
        return None
    return f"takes ({', '.join(names)}), not ({', '.join(expected)})"


_REST: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _version() -> str:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return "(unknown)"
