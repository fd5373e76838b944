"""What a router asks of an engine's cache: `POST /v1/agent/kv`, shaped as the shared `kv_hints` envelope.

    {"protocol_version": "0.1", "message_id": "m7", "actions": [
      {"action_id": "a1", "action_type": "retain", "action_version": "1",
       "payload": {"digest": "…", "after": 8.0, "sigma": 0.7, "expires": 60.0}}]}

Each action is answered alone. An action of an unknown type or version is `unsupported` and harms no other.
Directives name context by chain digest and scope, never by block.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from .errors import UnreadableHints, first_problem
from .fields import Contract, Digest, Id, Name, Seconds, Sigma, Size
from .limits import ACTIONS_PER_MESSAGE_MAX, DIRECTIVES_BODY_MAX_BYTES
from .residency import Tier

KV_PATH = "/v1/agent/kv"
KV_EXPORT_PATH = "/v1/agent/kv/export"
KV_PROTOCOL_VERSION = "0.1"
ACTION_VERSION = "1"

Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Retain(Contract):
    """When a context will be needed next, as far as is known: it orders eviction and withholds nothing.

    Times are in seconds from the directive's arrival. A later estimate for the same digest replaces this one,
    and so does the context's next use.
    """

    type: Literal["retain"] = "retain"
    digest: Digest
    scope: Id | None = None
    after: Seconds
    """Median time until its next use."""
    sigma: Sigma = 1.0
    """How unsure `after` is."""
    expires: Seconds
    """Past this the estimate counts no more."""
    weight: Weight = 1.0
    """How far the estimate is trusted; 0 leaves the context to least-recently-used order."""


class Release(Contract):
    """The context is dead: it goes before everything else, and to no lower tier. Its next use revives it."""

    type: Literal["release"] = "release"
    digest: Digest
    scope: Id | None = None
    keep: Digest | None = None
    """The longest prefix of it that lives on; None if none does."""


class Prefetch(Contract):
    """Bring the context to the device ahead of its use, from a lower tier here or from a peer engine."""

    type: Literal["prefetch"] = "prefetch"
    digest: Digest
    scope: Id | None = None
    tier: Name | None = None
    """The lower tier to read from."""
    peer: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Base URL of the engine to read from, without `/v1`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.tier is None) == (self.peer is None):
            raise ValueError("give either tier or peer")
        return self


class Demote(Contract):
    """Move the context, from the end of `keep` on, from the device to a lower tier."""

    type: Literal["demote"] = "demote"
    digest: Digest
    scope: Id | None = None
    keep: Digest | None = None
    """What of it stays; None if nothing does."""
    tier: Name = Tier.HOST
    """Where it goes."""


class Warm(Contract):
    """Compute the context ahead of its use, behind all requests: for context that no tier and no peer holds.

    An engine can do so for prompts that it was sent before and remembers. For others the router sends a
    request of one output token, while it has the body of a call with that context at hand.
    """

    type: Literal["warm"] = "warm"
    digest: Digest
    scope: Id | None = None


Directive: TypeAlias = Retain | Release | Prefetch | Demote | Warm
DIRECTIVE_TYPES = ("retain", "release", "prefetch", "demote", "warm")

Result = Literal["applied", "clipped", "rejected", "unsupported"]


class DirectiveOutcome(Contract):
    """What became of one action.

    `clipped` means in part: `reason` says why, `tokens` how much of the context it covers now.
    """

    action_id: str
    """The action that it is of."""
    outcome: Result
    """What became of it."""
    reason: str | None = None
    """Why, in words for people."""
    tokens: Size | None = None
    """How much of the context it covers now."""


class Outcomes(Contract):
    """The answer to one message: an outcome for each action, in their order."""

    message_id: str
    """The message that is answered."""
    outcomes: tuple[DirectiveOutcome, ...] = ()
    """In the order of its actions."""


class EngineRates(Contract):
    """What an engine's work costs, for choosing between waiting, copying and computing."""

    prefill_s_per_token: Seconds
    """Computing one token of a prompt."""
    step_s: Seconds
    """One decoding step of a batch, whatever is in it."""
    decode_s_per_seq: Seconds
    """What one more sequence adds to a step."""
    decode_s_per_context_token: Seconds
    """What one more token of its context adds."""
    host_s_per_token: Seconds | None = None
    """Loading from the host tier; None without one."""
    storage_s_per_token: Seconds | None = None
    """Loading from the storage tier; None without one."""
    peer_s_per_token: Seconds | None = None
    """Copying from a peer; None if the engine cannot."""


class EngineKv(Contract):
    """What `GET /v1/agent/kv` tells of an engine's cache.

    Attributes:
        epoch: names one run of the engine, as in residency events.
        directives: the types of directives that the engine carries out.
        rates: what its work costs; None if it does not tell.
        tiers: tokens that each tier can hold.
        used: tokens that each tier holds; of the device, cached or in use.
        budget: tokens that estimates may keep beyond least-recently-used order.
        retained: tokens under an estimate that has not expired, by scope ("" without one).
        retained_by_program: the same by the program whose step brought them ("" where none was declared), as
            far as the engine knows; the largest `PROGRAMS_SHOWN_MAX`.
    """

    epoch: Id
    directives: tuple[Name, ...] = ()
    rates: EngineRates | None = None
    tiers: dict[str, Size] = Field(default_factory=dict)
    used: dict[str, Size] = Field(default_factory=dict)
    budget: Size = 0
    retained: dict[str, Size] = Field(default_factory=dict)
    retained_by_program: dict[str, Size] = Field(default_factory=dict)


class _Action(Contract):
    action_id: Annotated[str, Field(min_length=1, max_length=512)]
    action_type: str
    action_version: str
    payload: dict[str, Any] = Field(default_factory=dict)


class _Envelope(Contract):
    protocol_version: str
    message_id: Annotated[str, Field(min_length=1, max_length=512)]
    actions: list[Any] = Field(default_factory=list)


_DIRECTIVE: TypeAdapter[Directive] = TypeAdapter(Annotated[Directive, Field(discriminator="type")])


class Message(Contract):
    """A message as read: each action as (its id, the directive), or the outcome that it has already."""

    message_id: str
    actions: tuple[tuple[str, Directive] | DirectiveOutcome, ...]


def encode_directives(message_id: str, actions: Iterable[tuple[str, Directive]]) -> bytes:
    """Returns the JSON body of one message from pairs of action id and directive."""
    envelope = _Envelope(
        protocol_version=KV_PROTOCOL_VERSION,
        message_id=message_id,
        actions=[
            {
                "action_id": action_id,
                "action_type": directive.type,
                "action_version": ACTION_VERSION,
                "payload": directive.model_dump(mode="json", exclude_none=True, exclude={"type"}),
            }
            for action_id, directive in actions
        ],
    )
    return envelope.model_dump_json().encode()


def decode_directives(body: bytes) -> Message:
    """Reads a message; a bad action is answered alone, and its outcome stands in its place.

    Raises:
        UnreadableHints: if the body is too long or no envelope of this protocol version.
    """
    if len(body) > DIRECTIVES_BODY_MAX_BYTES:
        raise UnreadableHints(f"{len(body)} bytes, more than {DIRECTIVES_BODY_MAX_BYTES}")
    try:
        envelope = _Envelope.model_validate_json(body)
    except ValidationError as error:
        raise UnreadableHints(first_problem(error)) from None
    if envelope.protocol_version != KV_PROTOCOL_VERSION:
        raise UnreadableHints(f"protocol version {envelope.protocol_version} is not {KV_PROTOCOL_VERSION}")
    actions = tuple(_read(index, raw) for index, raw in enumerate(envelope.actions))
    return Message.model_construct(message_id=envelope.message_id, actions=actions)


def _read(index: int, raw: Any) -> tuple[str, Directive] | DirectiveOutcome:
    shown = raw.get("action_id") if isinstance(raw, Mapping) else None
    action_id = shown if isinstance(shown, str) else f"#{index}"
    if index >= ACTIONS_PER_MESSAGE_MAX:
        reason = f"a message may hold {ACTIONS_PER_MESSAGE_MAX} actions"
        return DirectiveOutcome(action_id=action_id, outcome="rejected", reason=reason)
    try:
        action = _Action.model_validate(raw)
        if action.action_type not in DIRECTIVE_TYPES:
            reason = f"action type {action.action_type[:64]!r} is not known"
            return DirectiveOutcome(action_id=action_id, outcome="unsupported", reason=reason)
        if action.action_version != ACTION_VERSION:
            reason = f"version {action.action_version[:16]!r} is not known"
            return DirectiveOutcome(action_id=action_id, outcome="unsupported", reason=reason)
        directive = _DIRECTIVE.validate_python({**action.payload, "type": action.action_type})
    except ValidationError as error:
        return DirectiveOutcome(action_id=action_id, outcome="rejected", reason=first_problem(error))
    return action.action_id, directive


def decode_outcomes(body: bytes) -> Outcomes:
    """Reads an engine's answer.

    Raises:
        UnreadableHints: if it is none.
    """
    try:
        return Outcomes.model_validate_json(body)
    except ValidationError as error:
        raise UnreadableHints(first_problem(error)) from None
