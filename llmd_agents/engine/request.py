"""A request as the core sees it: what was asked, how far it has come, and what became of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .eviction import Block
from .tokenizer import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from llmd_agents.cache_index import Name


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request. No model runs, so the caller says what the output will be.

    Attributes:
        id: unique among the requests in the engine.
        prompt: four bytes per token, at least one token.
        output: four bytes per token, at least one token.
        root: requests share cached blocks only under an equal root (`blocks.cache_root`).
        boundaries: chain digests whose residency is tracked, as (digest, tokens from the start), ascending.
        scope: reported with their residency (`hints.residency_scope`).
        of_branch: hints say that it is a step of a fork's branch: a join waits for it.
        reply: digest that will name prompt and output together, once the request has finished.
    """

    id: str
    prompt: bytes
    output: bytes
    root: bytes
    boundaries: tuple[tuple[bytes, int], ...] = ()
    scope: str | None = None
    of_branch: bool = False
    reply: bytes | None = None

    def __post_init__(self) -> None:
        for name, data in (("prompt", self.prompt), ("output", self.output)):
            if not data or len(data) % BYTES_PER_TOKEN:
                raise ValueError(f"{name} must be a positive multiple of {BYTES_PER_TOKEN} bytes")

    @property
    def reply_end(self) -> int:
        """Tokens from the start to the end of the reply, as far as it is ever computed: without its last."""
        return (len(self.prompt) + len(self.output)) // BYTES_PER_TOKEN - 1


@dataclass(slots=True, eq=False)
class Progress:
    """How far a request has come. Dispatch orders read it; only the core changes it.

    Attributes:
        tokens: prompt and output together, four bytes per token.
        known: tokens that exist so far: the prompt and what was sampled.
        computed: tokens whose keys and values are in `blocks`, cached hits included.
        hashes: of the first full blocks, as far as they were needed.
        registered: blocks, from the start, that can be found in the cache.
        boundary: index of the first of the request's boundaries that `registered` blocks do not cover.
        cached_tokens: hit at the first admission; None before it.
        names: those of its boundaries that `registered` blocks cover and that have a full block.
        hits: blocks, from the start, that were found without need to compute them when last looked for.
        protected: blocks, from the start, that are protected while it waits.
        awaits: transfers that it waits for.
        loaded: tokens that it has waited for, by the source that they were loaded from.
        internal: nobody asked for it and nobody hears of it.
    """

    request: EngineRequest
    arrival_s: float
    tokens: bytes = field(repr=False)
    prompt_tokens: int
    known: int
    total: int
    computed: int = 0
    blocks: list[Block] = field(default_factory=list, repr=False)
    hashes: list[bytes] = field(default_factory=list, repr=False)
    registered: int = 0
    boundary: int = 0
    cached_tokens: int | None = None
    first_scheduled_s: float = 0.0
    first_token_s: float = 0.0
    preemptions: int = 0
    names: "list[Name]" = field(default_factory=list, repr=False)
    hits: int = 0
    protected: int = 0
    awaits: int = 0
    loaded: dict[str, int] = field(default_factory=dict)
    internal: bool = False

    @property
    def boundaries(self) -> tuple[tuple[bytes, int], ...]:
        return self.request.boundaries

    @property
    def scope(self) -> str | None:
        return self.request.scope

    @classmethod
    def start(cls, request: EngineRequest, now: float, *, internal: bool = False) -> "Progress":
        prompt_tokens = len(request.prompt) // BYTES_PER_TOKEN
        return cls(
            request=request,
            arrival_s=now,
            tokens=request.prompt + request.output,
            prompt_tokens=prompt_tokens,
            known=prompt_tokens,
            total=prompt_tokens + len(request.output) // BYTES_PER_TOKEN,
            internal=internal,
        )


@dataclass(frozen=True, slots=True)
class RequestStats:
    """What became of a finished request; times are modelled seconds.

    `cached_tokens` counts the prompt tokens that were hit when the request was first admitted, those that it
    had waited for to be loaded included.
    """

    request_id: str
    arrival_s: float
    first_scheduled_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int

    @property
    def queue_s(self) -> float:
        return self.first_scheduled_s - self.arrival_s

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float:
        return self.finish_s - self.arrival_s
