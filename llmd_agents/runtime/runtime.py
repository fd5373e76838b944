"""The runtime: takes in requests, responses and events with their times, and says where steps should go.

It does no I/O and reads no clock. The HTTP router, and any other body, calls it; the same calls in the same
order give the same decisions.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmd_agents.hints import Ack, Decoded, Event, Link, Rejection, ResidencyBatch

from .contexts import Contexts
from .graph import ProgramGraph, ProgramRecord, StepRecord
from .placement import Candidate, by_residency_and_load, spread

DEFAULT_TENANT = "default"

BLOCK_TOKENS = 512
"""By how much `cached_tokens` may fall short of a hit: engines count whole blocks, and cut the last one."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A model call that asks for a place.

    Attributes:
        size: bytes of the request body.
        decoded: what its hint header said; None without one.
        links: its chain, where the body was read (always for a call without usable hints).
        at: time of arrival, in seconds of the body's clock.
    """

    tenant: str
    size: int
    at: float
    decoded: Decoded | None = None
    links: Sequence[Link] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts from an engine's response."""

    prompt_tokens: int
    cached_tokens: int | None
    output_tokens: int


@dataclass(slots=True, eq=False)
class Call:
    """A model call under way, as the runtime knows it.

    Attributes:
        id: counts the calls of one runtime.
        ranking: engines to try, best first; engines that are down come last.
        ack: the answer to its hints; None if it had none.
        engine: where it is now; None before it is sent, and again once it has ended.
        missing: bytes of its prompt that the engine was not believed to hold.
        expected: what it was believed to hold, as (depth, last use), deepest first.
        predicted: contexts that it holds if it answers.
    """

    id: int
    tenant: str
    digest: bytes | None
    size: int
    ranking: list[str]
    ack: Ack | None
    program: str | None = None
    step: StepRecord | None = None
    engine: str | None = None
    answering: bool = False
    missing: int = 0
    expected: list[tuple[int, int]] = field(default_factory=list)
    predicted: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class EngineState:
    """Counters of one engine. `queued` is bytes of prompt that it has yet to compute before it answers.

    Attributes:
        epoch: names the run of the engine whose residency events are followed; None without any.
    """

    up: bool = True
    epoch: str | None = None
    seq: int = -1
    running: int = 0
    queued: int = 0
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Tenant:
    """What belongs to one tenant, with limits of its own: no tenant's traffic pushes out another's."""

    scope: str | None
    contexts: Contexts = field(default_factory=Contexts)
    graph: ProgramGraph = field(default_factory=ProgramGraph)


class Runtime:
    """Program graph, residency and placement for one fleet.

    Args:
        engines: names of all engines; they count as up until told otherwise.
        tenants: names of all tenants, each with the scope that engines report its contexts under
            (`hints.residency_scope` of its cache salt). By default there is one, whose all contexts are.
    """

    def __init__(self, engines: Iterable[str], tenants: Mapping[str, str | None] | None = None) -> None:
        self.engines = {engine: EngineState() for engine in engines}
        scopes = {DEFAULT_TENANT: None} if tenants is None else tenants
        self._tenants = {name: _Tenant(scope) for name, scope in scopes.items()}
        self._ids = itertools.count(1)

    # --- calls

    def needs_chain(self, tenant: str, decoded: Decoded | None) -> bool:
        """Returns whether the call's context can be told only by reading its body."""
        return (
            decoded is None
            or decoded.hints is None
            or not self._tenants[tenant].contexts.knows(decoded.hints)
        )

    def arrive(self, arrival: Arrival) -> Call:
        """Decides where a call should go."""
        contexts, graph = self._tenants[arrival.tenant].contexts, self._tenants[arrival.tenant].graph
        hints = arrival.decoded.hints if arrival.decoded else None
        digest = None
        if hints is not None and contexts.knows(hints):
            digest = contexts.declare(hints.extends, hints.segments)
        elif arrival.links is not None:
            digest = contexts.derive(arrival.links)
        context = contexts.get(digest) if digest else None
        size = context.depth if context else arrival.size
        step, first = graph.step(hints, digest, arrival.at) if hints is not None else (None, False)
        candidates = self._candidates(contexts, digest)
        if step is not None and first and step.declared.fork is not None:
            ranking = spread(candidates, step.declared.fork)
        else:
            key = hints.program.id if hints else (digest or b"").hex()
            ranking = by_residency_and_load(candidates, size, key)
        ranking += [name for name, state in self.engines.items() if not state.up]
        ack = self._ack(arrival, digest)
        program = hints.program.id if hints else None
        return Call(next(self._ids), arrival.tenant, digest, size, ranking, ack, program, step)

    def dispatched(self, call: Call, engine: str, at: float) -> None:
        """Records that a call was sent to an engine. Its context is expected to be there from now on."""
        contexts = self._tenants[call.tenant].contexts
        state = self.engines[engine]
        call.engine = engine
        call.answering = False
        call.expected = contexts.expected(call.digest, engine)
        call.missing = max(call.size - (call.expected[0][0] if call.expected else 0), 0)
        call.predicted = contexts.predict(call.digest, engine)
        state.running += 1
        state.queued += call.missing
        state.requests += 1
        if call.step is not None:
            call.step.engine, call.step.status = engine, "running"

    def answering(self, call: Call, at: float) -> None:
        """Records the first byte of a call's answer: its prompt has been computed."""
        if call.engine is None or call.answering:
            return
        call.answering = True
        self.engines[call.engine].queued -= call.missing
        tenant = self._tenants[call.tenant]
        if self.engines[call.engine].epoch is None:
            tenant.contexts.settle(call.digest, call.engine)  # the others say so themselves
        if call.step is not None and call.program is not None:
            tenant.graph.answered(call.program, call.step.declared)

    def finished(self, call: Call, usage: Usage | None, at: float) -> None:
        """Records that a call was answered to its end."""
        self.answering(call, at)
        if call.engine is None:
            return
        state = self.engines[call.engine]
        if usage is not None:
            state.prompt_tokens += usage.prompt_tokens
            state.cached_tokens += usage.cached_tokens or 0
            self._correct(call, call.engine, usage)
        self._release(call)
        if call.step is not None:
            call.step.status, call.step.finished_at = "finished", at
            if usage is not None:
                call.step.prompt_tokens = usage.prompt_tokens
                call.step.cached_tokens = usage.cached_tokens
                call.step.output_tokens = usage.output_tokens

    def failed(self, call: Call, at: float) -> None:
        """Records that the engine did not answer."""
        if call.engine is not None:
            self.engines[call.engine].failed += 1
        self.ended_early(call, "failed", at)

    def ended_early(self, call: Call, status: str, at: float) -> None:
        """Records that a call under way ended without a result: `failed`, `cancelled` by its client, or
        `refused` by the engine as a bad request. Does nothing if it has ended already."""
        if call.engine is None:
            return
        if not call.answering:
            self._tenants[call.tenant].contexts.retract(call.predicted, call.engine)
        self._release(call)
        if call.step is not None:
            call.step.status, call.step.finished_at = status, at

    # --- everything else that is observed

    def observe(self, tenant: str, event: Event, at: float) -> Rejection | None:
        """Takes in a lifecycle event; returns why it could not be used, if so."""
        return self._tenants[tenant].graph.apply(event, at)

    def report(self, engine: str, batch: ResidencyBatch, at: float) -> bool:
        """Takes in what an engine says of its cache; returns False if a new snapshot is needed."""
        state = self.engines[engine]
        if not batch.snapshot and (batch.epoch != state.epoch or batch.seq != state.seq + 1):
            self._clear(engine)
            return False
        state.epoch, state.seq = batch.epoch, batch.seq
        for tenant in self._tenants.values():
            tenant.contexts.report(engine, batch, tenant.scope)
        return True

    def engine_up(self, engine: str, at: float) -> None:
        self.engines[engine].up = True

    def engine_down(self, engine: str, at: float) -> None:
        """An engine that cannot be reached is presumed to have lost its cache."""
        state = self.engines[engine]
        if state.up:
            state.up = False
            self._clear(engine)

    # --- what can be seen

    def program(self, tenant: str, program_id: str) -> ProgramRecord | None:
        return self._tenants[tenant].graph.get(program_id)

    def contexts(self, tenant: str) -> Contexts:
        return self._tenants[tenant].contexts

    @property
    def context_count(self) -> int:
        return sum(len(tenant.contexts) for tenant in self._tenants.values())

    @property
    def program_count(self) -> int:
        return sum(len(tenant.graph) for tenant in self._tenants.values())

    # --- inside

    def _candidates(self, contexts: Contexts, digest: bytes | None) -> list[Candidate]:
        held = contexts.resident(digest)
        return [
            Candidate(
                name, held[name].depth if name in held else 0, queued=state.queued, running=state.running
            )
            for name, state in self.engines.items()
            if state.up
        ]

    def _correct(self, call: Call, engine: str, usage: Usage) -> None:
        """Learns from an engine that reports no residency what it has evicted: see `Contexts.give_up`."""
        if usage.cached_tokens is None or not usage.prompt_tokens or self.engines[engine].epoch is not None:
            return
        cached = (usage.cached_tokens + BLOCK_TOKENS) / usage.prompt_tokens * call.size
        gone = [used for depth, used in call.expected if depth > cached]
        if gone:
            self._tenants[call.tenant].contexts.give_up(engine, max(gone))

    def _clear(self, engine: str) -> None:
        self.engines[engine].epoch = None
        for tenant in self._tenants.values():
            tenant.contexts.clear(engine)

    def _release(self, call: Call) -> None:
        assert call.engine is not None
        state = self.engines[call.engine]
        state.running -= 1
        if not call.answering:
            state.queued -= call.missing
        call.engine = None

    def _ack(self, arrival: Arrival, digest: bytes | None) -> Ack | None:
        decoded = arrival.decoded
        if decoded is None:
            return None
        accepted: list[str] = []
        clipped: list[Rejection] = []
        hints = decoded.hints
        if hints is not None:
            step = hints.step
            declared = {
                "program": True,
                "step": True,
                "parents": bool(step.parents),
                "fork": step.fork is not None,
                "loop": step.loop is not None,
                "segments": bool(hints.segments or hints.extends) and digest is not None,
                "next": hints.forecast is not None,
            }
            accepted = [name for name, given in declared.items() if given and name not in hints.cut]
            clipped = [Rejection(name, "shortened by the client to fit the header") for name in hints.cut]
        return Ack(
            accepted=tuple(accepted),
            clipped=tuple(clipped),
            rejected=decoded.rejected,
            ignored=decoded.ignored,
            resync=hints is not None and hints.extends is not None and digest is None,
        )
