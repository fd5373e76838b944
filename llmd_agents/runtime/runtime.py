"""The runtime: takes in requests, responses and events with their times, and says where steps should go.

It does no I/O and reads no clock. The HTTP router, and any other body, calls it; the same calls in the same
order give the same decisions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmd_agents.hints import Ack, Decoded, Event, Link, Rejection, ResidencyBatch

from .contexts import Contexts
from .graph import ProgramGraph, ProgramRecord, StepRecord
from .placement import Candidate, by_residency_and_load, spread

DEFAULT_TENANT = "default"


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
        ranking: engines to try, best first; engines that are down come last.
        ack: the answer to its hints; None if it had none.
    """

    tenant: str
    digest: bytes | None
    size: int
    ranking: list[str]
    ack: Ack | None
    step: StepRecord | None = None
    engine: str | None = None
    missing: int = 0
    predicted: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class EngineState:
    """Counters of one engine. `queued` is in bytes of prompt that it did not hold when it was sent."""

    up: bool = True
    epoch: str | None = None
    seq: int = -1
    running: int = 0
    queued: int = 0
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Runtime:
    """Program graph, residency and placement for one fleet.

    Args:
        engines: names of all engines; they count as up until told otherwise.
        sole_tenant: the only tenant, where there is just one (see `Contexts`).
    """

    def __init__(self, engines: Iterable[str], *, sole_tenant: str | None = DEFAULT_TENANT) -> None:
        self.engines = {engine: EngineState() for engine in engines}
        self.contexts = Contexts(sole_tenant=sole_tenant)
        self.graph = ProgramGraph()

    # --- calls

    def needs_chain(self, tenant: str, decoded: Decoded | None) -> bool:
        """Returns whether the call's context can be told only by reading its body."""
        return decoded is None or decoded.hints is None or not self.contexts.knows(tenant, decoded.hints)

    def arrive(self, arrival: Arrival) -> Call:
        """Decides where a call should go."""
        tenant = arrival.tenant
        hints = arrival.decoded.hints if arrival.decoded else None
        digest = None
        if hints is not None and self.contexts.knows(tenant, hints):
            digest = self.contexts.declare(tenant, hints.extends, hints.segments)
        elif arrival.links is not None:
            digest = self.contexts.derive(tenant, arrival.links)
        context = self.contexts.get(tenant, digest) if digest else None
        size = context.depth if context else arrival.size
        step, first = None, False
        if hints is not None:
            step, first = self.graph.step(tenant, hints, digest, arrival.at)
        candidates = self._candidates(tenant, digest)
        if step is not None and first and step.declared.fork is not None:
            ranking = spread(candidates, step.declared.fork)
        else:
            key = hints.program.id if hints else (digest or b"").hex()
            ranking = by_residency_and_load(candidates, size, key)
        ranking += [name for name, state in self.engines.items() if not state.up]
        return Call(tenant, digest, size, ranking, self._ack(arrival, digest), step)

    def dispatched(self, call: Call, engine: str) -> None:
        """Records that a call was sent to an engine. Its context is expected to be there from now on."""
        held = self.contexts.resident(call.tenant, call.digest).get(engine)
        state = self.engines[engine]
        call.engine = engine
        call.missing = max(call.size - (held.depth if held else 0), 0)
        state.running += 1
        state.queued += call.missing
        state.requests += 1
        if call.step is not None:
            call.step.engine, call.step.status = engine, "running"
        call.predicted = self.contexts.predict(call.tenant, call.digest, engine)

    def finished(self, call: Call, usage: Usage | None, at: float) -> None:
        """Records that a call was answered."""
        state = self._release(call)
        if state is not None and usage is not None:
            state.prompt_tokens += usage.prompt_tokens
            state.cached_tokens += usage.cached_tokens or 0
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
        self.contexts.retract(call.tenant, call.predicted, call.engine)
        self._release(call)
        if call.step is not None:
            call.step.status, call.step.finished_at = status, at

    # --- everything else that is observed

    def observe(self, tenant: str, event: Event, at: float) -> Rejection | None:
        """Takes in a lifecycle event; returns why it could not be used, if so."""
        return self.graph.apply(tenant, event, at)

    def report(self, engine: str, batch: ResidencyBatch) -> bool:
        """Takes in what an engine says of its cache; returns False if a new snapshot is needed."""
        state = self.engines[engine]
        if not batch.snapshot and (batch.epoch != state.epoch or batch.seq != state.seq + 1):
            self.contexts.clear(engine)
            return False
        state.epoch, state.seq = batch.epoch, batch.seq
        self.contexts.report(engine, batch)
        return True

    def engine_up(self, engine: str) -> None:
        self.engines[engine].up = True

    def engine_down(self, engine: str) -> None:
        """An engine that cannot be reached is presumed to have lost its cache."""
        state = self.engines[engine]
        if state.up:
            state.up, state.epoch = False, None
            self.contexts.clear(engine)

    def program(self, tenant: str, program_id: str) -> ProgramRecord | None:
        return self.graph.get(tenant, program_id)

    # --- inside

    def _candidates(self, tenant: str, digest: bytes | None) -> list[Candidate]:
        held = self.contexts.resident(tenant, digest)
        return [
            Candidate(
                name, held[name].depth if name in held else 0, queued=state.queued, running=state.running
            )
            for name, state in self.engines.items()
            if state.up
        ]

    def _release(self, call: Call) -> EngineState | None:
        if call.engine is None:
            return None
        state = self.engines[call.engine]
        state.running -= 1
        state.queued -= call.missing
        call.engine = None
        return state

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
