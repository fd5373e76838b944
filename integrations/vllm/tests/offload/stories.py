"""A host tier of vLLM's own around the policy, and requests that are letters: each letter is one chunk."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from vllm.v1.kv_offload.base import OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from llmd_agents.hints import Forecast, Hints, Program, Segment, Step, encode_hints
from llmd_agents_vllm.offload import policy as policy_module
from llmd_agents_vllm.offload.policy import AgentOffloadPolicy

POLICY_MODULE = "llmd_agents_vllm.offload.policy"
TOKENS = 16
"""Of a chunk."""

BYTES = 4
"""Canonical bytes of a token, on average."""


def block_hash(path: str) -> bytes:
    """Of the chunk that ends a path: it names all that precedes it."""
    return hashlib.sha256(path.encode()).digest()


def keys_of(path: str, group: int = 0) -> list[OffloadKey]:
    return [make_offload_key(block_hash(path[: end + 1]), group) for end in range(len(path))]


def hashes_of(path: str) -> list[bytes]:
    return [block_hash(path[: end + 1]) for end in range(len(path))]


def digest(path: str) -> bytes:
    return hashlib.md5(path.encode()).digest()


@dataclass(frozen=True)
class Part:
    """A stretch of a prompt that was declared: its letters, its type and its lifetime."""

    letters: str
    type: str = "conversation_turn"
    lifetime: Any = None


def carried(
    *parts: Part | str,
    program: str = "p",
    branch: str = "main",
    step: str = "s",
    parents: Sequence[str] = (),
    forecast: Mapping[str, Any] | None = None,
    scope: str | None = None,
) -> dict[str, Any]:
    """Returns the `kv_transfer_params` of a request whose prompt consists of these parts."""
    segments, chain, path = [], [], ""
    for part in (part if isinstance(part, Part) else Part(part) for part in parts):
        path += part.letters
        size = len(part.letters) * TOKENS * BYTES
        segments.append(
            Segment.model_validate(
                {"type": part.type, "digest": digest(path), "size": size, "lifetime": part.lifetime}
            )
        )
        chain.append([digest(path).hex(), len(path) * TOKENS * BYTES])
    hints = Hints(
        program=Program(id=program),
        step=Step(id=step, branch=branch, parents=tuple(parents)),
        segments=tuple(segments),
        forecast=None if forecast is None else Forecast.model_validate(dict(forecast)),
    )
    value = {"v": 1, "chain": chain, "header": encode_hints(hints)}
    return {"llmd_agents": value if scope is None else {**value, "scope": scope}}


SOON = {"next": "tool", "after": 25.0, "sigma": 0.3}
LATE = {"next": "human", "after": 3600.0, "sigma": 0.3}
END = {"next": "end"}


class Clock:
    """Stands for the policy's clock while it is `ticking`.

    Goes on with each request of a story, by so many seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.step = 10.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def ticking() -> Iterator[Clock]:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_module, "monotonic", clock)
        yield clock


class Tier:
    """A host tier that holds so many chunks; requests run one after the other."""

    def __init__(self, chunks: int, clock: Clock, policy: str = "AgentOffloadPolicy") -> None:
        self.clock = clock
        module = POLICY_MODULE if policy == "AgentOffloadPolicy" else None
        self.manager = CPUOffloadingManager(chunks, policy, module)
        self._requests = self._pushed = 0

    @property
    def policy(self) -> AgentOffloadPolicy:
        policy = self.manager._policy
        assert isinstance(policy, AgentOffloadPolicy)
        return policy

    def begin(self, path: str, params: Mapping[str, Any] | None = None, name: str = "r") -> ReqContext:
        self._requests += 1
        self.clock.now += self.clock.step
        context = ReqContext(f"{name}{self._requests}", None if params is None else dict(params))
        for end, key in enumerate(keys_of(path), 1):
            context.set_offload_key_position(key, end * TOKENS)
        self.manager.on_new_request(context)
        return context

    def store(self, path: str, context: ReqContext) -> list[OffloadKey] | None:
        """Returns what was evicted for it; None where there was no room."""
        output = self.manager.prepare_store(keys_of(path), context)
        if output is None:
            return None
        self.manager.complete_store(output.keys_to_store, context)
        return list(output.evicted_keys)

    def run(self, path: str, params: Mapping[str, Any] | None = None) -> list[OffloadKey]:
        """A request whose prompt is offered from its start on, as vLLM does when the device has it."""
        context = self.begin(path, params)
        evicted = self.store(path, context)
        self.manager.on_request_finished(context)
        assert evicted is not None
        return evicted

    def load(
        self, path: str, start: int, params: Mapping[str, Any] | None = None, *, name: str = "r"
    ) -> None:
        """A request that loads all from `start` on; what precedes it the device has."""
        context = self.begin(path, params, name)
        keys = keys_of(path)[start:]
        self.manager.prepare_load(keys, context)
        self.manager.complete_load(keys, context)
        self.manager.on_request_finished(context)

    def push(self, chunks: int) -> None:
        """A request of so many chunks that nobody saw before takes room."""
        self.run("".join(chr(0x4E00 + self._pushed + index) for index in range(chunks)))
        self._pushed += chunks

    def holds(self, path: str) -> int:
        """Returns how many chunks of a path are there, from its start on."""
        held = [self.manager._policy.get(key) is not None for key in keys_of(path)]
        return held.index(False) if False in held else len(held)
