"""What one engine tells another of a context, so that it can copy the blocks: hashes, never contents.

Equal prompts have equal hashes on all engines of one model and block size.
"""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from llmd_agents.hints.fields import Contract, Digest, Id, Size
from llmd_agents.hints.limits import SIZE_MAX


class ExportRequest(Contract):
    """`POST /v1/agent/kv/export`: which context is asked for."""

    digest: Digest
    scope: Id | None = None


class Boundary(Contract):
    """A chain digest and the tokens from the start of the prompt to its end."""

    digest: Digest
    tokens: Size


class Export(Contract):
    """The part of a context, from its start on, that an engine can hand out.

    Attributes:
        block_size: tokens per block.
        tokens: in that part; those past the last full block stay behind.
        hashes: of its full blocks.
        boundaries: the digests that end in it, ascending.
    """

    block_size: Annotated[int, Field(ge=1, le=SIZE_MAX, strict=True)]
    tokens: Size
    hashes: tuple[Digest, ...]
    boundaries: tuple[Boundary, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.hashes) != self.tokens // self.block_size:
            raise ValueError("hashes must name each full block of the tokens")
        ends = [boundary.tokens for boundary in self.boundaries]
        if ends != sorted(ends) or (ends and ends[-1] > self.tokens):
            raise ValueError("boundaries must ascend and end within the tokens")
        return self


@dataclass(frozen=True, slots=True)
class PeerRead:
    """A prefetch that waits for a peer's export: the body asks for it and calls `EngineCore.receive`.

    Attributes:
        id: unique in the engine.
        action_id: of the directive.
        peer: as the directive named it: a base URL.
    """

    id: int
    action_id: str
    peer: str
    digest: bytes
    scope: str | None
