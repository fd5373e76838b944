"""How large and how fast a modelled engine is: `EngineProfile`, and the packaged profiles in `profiles/`."""

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from llmd_agents.hints import EngineRates

DEFAULT_PROFILE: Final = "h100-8b"

_LEAST: Final = {"num_blocks": 2, "host_blocks": 0, "storage_blocks": 0}
"""Smallest values of whole numbers that need not just be positive."""


class ProfileError(ValueError):
    """There is no such profile, or it describes no engine; says which key is wrong and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """Sizes and cost model of one engine; vary one with `dataclasses.replace`.

    A step takes `step_overhead_s`, plus for every token of a prompt `prefill_s_per_token` and for every token
    that it attends to `prefill_s_per_token_context`, plus for every sequence that decodes `decode_s_per_seq`
    and for every token of its context `decode_s_per_context_token`.

    Raises:
        ProfileError: if a field is of the wrong type or out of range.
    """

    name: str
    block_size: int
    """Tokens per block of KV cache."""
    num_blocks: int
    """Blocks of KV cache; as in vLLM one of them is never used."""
    max_model_len: int
    """Most tokens of one request, prompt and output together."""
    max_num_batched_tokens: int
    """Most tokens computed in one step."""
    max_num_seqs: int
    """Most requests that run at once."""
    step_overhead_s: float
    prefill_s_per_token: float
    prefill_s_per_token_context: float
    decode_s_per_seq: float
    decode_s_per_context_token: float
    kv_bytes_per_token: int = 131_072
    host_blocks: int = 0
    """Blocks of the host tier; 0 for none."""
    host_bytes_per_s: float = 25e9
    storage_blocks: int = 0
    """Blocks of the storage tier; 0 for none."""
    storage_bytes_per_s: float = 5e9
    peer_bytes_per_s: float = 0.0
    """Of what is read from other engines; 0 if it cannot."""
    transfer_latency_s: float = 2e-3
    """Of each transfer from a lower tier or a peer, before its first byte."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.type is str:
                allowed = "a non-empty string"
                valid = isinstance(value, str) and bool(value)
            elif item.type is int:
                least = _LEAST.get(item.name, 1)
                allowed = f"an integer of at least {least}"
                valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
            else:
                unit = "bytes per second" if item.name.endswith("_bytes_per_s") else "seconds"
                allowed = f"a number of {unit}, 0 or more"
                number = isinstance(value, int | float) and not isinstance(value, bool)
                valid = number and 0 <= value < float("inf")
            if not valid:
                raise ProfileError(f"{item.name} must be {allowed}, not {value!r}")
        if self.step_overhead_s == 0:
            # Modelled time must advance with every step.
            raise ProfileError("step_overhead_s must be more than 0")
        for tier in ("host", "storage"):
            if getattr(self, f"{tier}_blocks") and not getattr(self, f"{tier}_bytes_per_s"):
                raise ProfileError(f"{tier}_bytes_per_s must be more than 0 where there are {tier}_blocks")

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache can hold."""
        return (self.num_blocks - 1) * self.block_size

    @property
    def block_bytes(self) -> int:
        return self.block_size * self.kv_bytes_per_token

    @property
    def rates(self) -> EngineRates:
        """What the engine's work costs, for those who choose between engines."""
        size = self.kv_bytes_per_token
        return EngineRates(
            prefill_s_per_token=self.prefill_s_per_token,
            step_s=self.step_overhead_s,
            decode_s_per_seq=self.decode_s_per_seq,
            decode_s_per_context_token=self.decode_s_per_context_token,
            host_s_per_token=size / self.host_bytes_per_s if self.host_blocks else None,
            storage_s_per_token=size / self.storage_bytes_per_s if self.storage_blocks else None,
            peer_s_per_token=size / self.peer_bytes_per_s if self.peer_bytes_per_s else None,
        )

    @property
    def dearer_per_block(self) -> float:
        """By how much of the first block's cost each further block of a prompt costs more to compute."""
        return self.prefill_s_per_token_context / self.prefill_s_per_token * self.block_size

    def prefill_s(self, start: int, end: int) -> float:
        """Seconds for tokens start (inclusive) to end (exclusive) of a prompt, the step's overhead aside."""
        count = end - start
        attended = count * (start + end + 1) / 2
        return self.prefill_s_per_token * count + self.prefill_s_per_token_context * attended

    def decode_s(self, context: int) -> float:
        """Seconds for one token of a sequence of `context` tokens, the step's overhead aside."""
        return self.decode_s_per_seq + self.decode_s_per_context_token * context


def profile_names() -> tuple[str, ...]:
    """Returns the names of the packaged profiles."""
    found = (Path(item.name) for item in (files(__package__) / "profiles").iterdir())
    return tuple(sorted(path.stem for path in found if path.suffix == ".toml"))


def load_profile(name_or_path: str | Path = DEFAULT_PROFILE) -> EngineProfile:
    """Returns a packaged profile by its name, or one from a TOML file (a path that ends in `.toml`).

    Raises:
        ProfileError: if there is none, or it is no profile.
    """
    text = str(name_or_path)
    if text in profile_names():
        data = (files(__package__) / "profiles" / f"{text}.toml").read_bytes()
    elif text.endswith(".toml"):
        try:
            data = Path(text).read_bytes()
        except OSError as error:
            raise ProfileError(f"profile {text}: {error.strerror}") from error
    else:
        raise ProfileError(
            f"profile {text!r} is neither the path of a .toml file nor one of {', '.join(profile_names())}"
        )
    try:
        return _read(tomllib.loads(data.decode()))
    except ValueError as error:
        raise ProfileError(f"profile {text}: {error}") from error


def _read(members: dict[str, Any]) -> EngineProfile:
    fields = dataclasses.fields(EngineProfile)
    allowed = [item.name for item in fields]
    needed = [item.name for item in fields if item.default is dataclasses.MISSING]
    for key in members:
        if key not in allowed:
            raise ProfileError(f"unknown key {key!r}; allowed are {', '.join(allowed)}")
    for key in needed:
        if key not in members:
            raise ProfileError(f"key {key!r} is missing; needed are {', '.join(needed)}")
    return EngineProfile(**members)
