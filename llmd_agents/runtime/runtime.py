"""The runtime: takes in requests, responses and events with their times, and says where steps should go and
what engines should keep, fetch and give up.

It does no I/O and reads no clock. The HTTP router, and any other body, calls it; the same calls in the same
order give the same decisions.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from llmd_agents.hints import (
    DEFAULT_PRIORITY,
    Ack,
    BranchEnded,
    Decoded,
    Directive,
    DirectiveOutcome,
    EngineKv,
    Event,
    Forecast,
    ForkDeclared,
    Hints,
    Link,
    Prefetch,
    ProgramFinished,
    Rejection,
    ResidencyBatch,
    Segment,
    SegmentType,
    Superseded,
    ToolStarted,
    Warm,
)

from .advice import Advice
from .contexts import BYTES_PER_TOKEN, Contexts, Holdings
from .directives import PENDING_MAX, Issued, Ledger
from .engine_state import EngineState
from .graph import ProgramGraph, ProgramRecord, StepRecord
from .journal import Journal
from .load import OTHERS_TOKENS, EngineLoad
from .placement import Candidate, placement_by, spread

DEFAULT_TENANT = "default"

WITHHELD = "withheld"
"""What becomes of a directive that is decided while the runtime only observes."""

UNDELIVERED = "undelivered"
HINTS_OFF = "hints are switched off"

COPY_MIN_BYTES = 8192
"""A context whose copy would spare less computing than this is not copied for a single call."""

COPY_MAX_COST = 0.5
"""Nor is it if copying takes more than this share of the time that computing does."""

COPY_HEARD_S = 0.05
"""How long a body lets a call wait, at most, until its engine has heard of the copy that the call needs."""

BLOCK_TOKENS = 512
"""By how much `cached_tokens` may fall short of a hit: engines count whole blocks, and cut the last one."""


class Mode(StrEnum):
    """What hints may do: `act`; `observe`, decide and record without effect; `off`, not even be read."""

    ACT = "act"
    OBSERVE = "observe"
    OFF = "off"


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
        advised: the engine that hints would choose; the first of the ranking unless the mode is `observe`.
        ack: the answer to its hints; None if it had none.
        engine: where it is now; None before it is sent, and again once it has ended.
        missing: bytes of its prompt that the engine was not believed to hold.
        expected: what it was believed to hold, as (depth, last use), deepest first.
        predicted: contexts that it holds if it answers.
        copy: id of the directive that brings its context to the engine from a peer, if there is one: the body
            should let the engine hear of that before the call.
        of_branch: it is a step of a fork's branch: a join waits for it.
        priority: its program's, 0 to 100, where it is another than all have that declare none; else None.
    """

    id: int
    tenant: str
    digest: bytes | None
    size: int
    ranking: list[str]
    ack: Ack | None
    program: str | None = None
    step: StepRecord | None = None
    forecast: Forecast | None = None
    advised: str | None = None
    engine: str | None = None
    answering: bool = False
    missing: int = 0
    expected: list[tuple[int, int]] = field(default_factory=list)
    predicted: list[bytes] = field(default_factory=list)
    copy: str | None = None
    occupies: list[bytes] = field(default_factory=list)
    dispatched_at: float = 0.0
    of_branch: bool = False
    priority: int | None = None


class _Tenant:
    """What belongs to one tenant, with limits of its own: no tenant's traffic pushes out another's."""

    def __init__(self, name: str, scope: str | None, runtime: "Runtime") -> None:
        self.scope = scope
        self.contexts = Contexts()
        self.graph = ProgramGraph()

        def issue(engine: str, directive: Directive, program: str, call: int | None) -> None:
            runtime._issue(name, engine, directive, program, call)

        self.advice = Advice(scope, self.contexts, runtime.engines, issue)


class Runtime:
    """Program graph, residency, placement and directives for one fleet.

    Directives wait in a queue until the body takes them (`take_directives`), which it should do after every
    input; it tells what became of each (`directive_answered`).

    Args:
        engines: names of all engines; they count as up until told otherwise.
        tenants: names of all tenants, each with the scope that engines report its contexts under
            (`hints.residency_scope` of its cache salt). By default there is one, whose all contexts are.
        placement: how steps are placed where no plan for a fork says otherwise (`placement.PLACEMENTS`).
        mode: what hints may do to begin with.
        journal: is told of every input and every decision.

    Raises:
        ValueError: if there is no such placement.
    """

    def __init__(
        self,
        engines: Iterable[str],
        tenants: Mapping[str, str | None] | None = None,
        *,
        placement: str = "load_and_affinity",
        mode: Mode = Mode.ACT,
        journal: Journal | None = None,
    ) -> None:
        self.engines = {engine: EngineState() for engine in engines}
        self._placement = placement_by(placement)
        self._mode = Mode(mode)
        self._journal = journal
        self._ledger = Ledger()
        self._ids = itertools.count(1)
        self._copying: OrderedDict[str, list[bytes]] = OrderedDict()
        self._under_way: set[int] = set()
        scopes = {DEFAULT_TENANT: None} if tenants is None else dict(tenants)
        self._tenants = {name: _Tenant(name, scope, self) for name, scope in scopes.items()}
        if journal is not None:
            journal.begin(list(self.engines), scopes, placement, self._mode)

    @property
    def mode(self) -> Mode:
        return self._mode

    def set_mode(self, mode: Mode, at: float) -> None:
        """Changes what hints may do from now on. What was decided and not yet taken is dropped."""
        self._note("set_mode", mode=mode, at=at)
        self._mode = mode
        if mode is not Mode.ACT:
            for issued in self._ledger.drop():
                self._count(issued, WITHHELD)

    # --- calls

    def needs_chain(self, tenant: str, decoded: Decoded | None) -> bool:
        """Returns whether the call's context can be told only by reading its body."""
        return (
            decoded is None
            or decoded.hints is None
            or self._mode is Mode.OFF
            or not self._tenants[tenant].contexts.knows(decoded.hints)
        )

    def arrive(self, arrival: Arrival) -> Call:
        """Decides where a call should go."""
        self._note("arrive", arrival=arrival)
        tenant = self._tenants[arrival.tenant]
        contexts, graph = tenant.contexts, tenant.graph
        hints = arrival.decoded.hints if arrival.decoded and self._mode is not Mode.OFF else None
        digest = None
        if hints is not None and contexts.knows(hints):
            digest = contexts.declare(hints.extends, hints.segments)
        elif arrival.links is not None:
            digest = contexts.derive(arrival.links)
        context = contexts.get(digest) if digest else None
        size = context.depth if context else arrival.size
        step, first = graph.step(hints, digest, arrival.at) if hints is not None else (None, False)
        if hints is not None:
            tenant.advice.arrived(hints.program.id, hints.program.name, hints.step, digest, arrival.at)
        candidates = self._candidates(contexts, digest, arrival.at)
        key = hints.program.id if hints else (digest or b"").hex()
        ranking = advised = self._placement(candidates, size, key)
        if step is not None and first and step.declared.fork is not None and hints is not None:
            fork = step.declared.fork
            planned = tenant.advice.place(hints.program.id, fork.id, fork.index, digest, arrival.at)
            if planned is None or not self.engines[planned].up:
                advised = spread(candidates, fork)
            else:
                advised = [planned, *(name for name in ranking if name != planned)]
        if self._mode is Mode.ACT:
            ranking = advised
        call = Call(
            id=next(self._ids),
            tenant=arrival.tenant,
            digest=digest,
            size=size,
            ranking=[*ranking, *(name for name, state in self.engines.items() if not state.up)],
            ack=self._ack(arrival, digest),
            program=hints.program.id if hints else None,
            step=step,
            forecast=hints.forecast if hints else None,
            advised=advised[0] if advised else None,
            of_branch=hints is not None and hints.step.fork is not None,
            priority=_priority(hints),
        )
        self._note("ranking", call=call.id, ranking=call.ranking, advised=call.advised)
        return call

    def dispatched(self, call: Call, engine: str, at: float) -> None:
        """Records that a call was sent to an engine. Its context is expected to be there from now on."""
        self._note("dispatched", call=call.id, engine=engine, at=at)
        contexts = self._tenants[call.tenant].contexts
        state = self.engines[engine]
        self._under_way.add(call.id)
        call.engine = engine
        call.dispatched_at = at
        holdings = contexts.holdings(call.digest)
        parts = holdings.parts() or [(call.id.to_bytes(8, "big"), call.size)]
        call.occupies = state.occupancy.enter(parts)
        call.answering = False
        call.copy = self._copy_for(call, engine, holdings)
        # Only now: what is copied counts as held already.
        call.expected, call.predicted = contexts.sent(holdings.path, engine)
        call.missing = max(call.size - (call.expected[0][0] if call.expected else 0), 0)
        state.running += 1
        state.branches += call.of_branch
        state.queued += call.missing
        state.context += call.size
        state.requests += 1
        if call.step is not None:
            call.step.engine, call.step.status = engine, "running"
            if call.program is not None:
                self._tenants[call.tenant].advice.dispatched(call.program, call.step.declared)

    def answering(self, call: Call, at: float) -> None:
        """Records the first byte of a call's answer: its prompt has been computed."""
        if call.engine is None or call.answering:
            return
        self._note("answering", call=call.id, at=at)
        call.answering = True
        self.engines[call.engine].queued -= call.missing
        tenant = self._tenants[call.tenant]
        if self.engines[call.engine].epoch is None:
            tenant.contexts.settle(call.digest, call.engine)  # the others say so themselves
        if call.step is not None and call.program is not None:
            tenant.graph.answered(call.program, call.step.declared)
            advice, step = tenant.advice, call.step.declared
            advice.answering(call.program, step, call.forecast, call.engine, call.id, at)

    def finished(self, call: Call, usage: Usage | None, at: float) -> None:
        """Records that a call was answered to its end."""
        self.answering(call, at)
        if call.engine is None:
            return
        self._note("finished", call=call.id, usage=usage, at=at)
        state = self.engines[call.engine]
        if usage is not None:
            state.prompt_tokens += usage.prompt_tokens
            state.cached_tokens += usage.cached_tokens or 0
            self._correct(call, call.engine, usage)
        self._release(call, at, answered=True)
        if call.step is not None:
            call.step.status, call.step.finished_at = "finished", at
            if usage is not None:
                call.step.prompt_tokens = usage.prompt_tokens
                call.step.cached_tokens = usage.cached_tokens
                call.step.output_tokens = usage.output_tokens
                if call.program is not None:
                    advice = self._tenants[call.tenant].advice
                    advice.output(call.program, call.step.declared, usage.output_tokens)

    def failed(self, call: Call, at: float) -> None:
        """Records that the engine did not answer."""
        if call.engine is not None:
            self._note("engine_failed", call=call.id, at=at)
            self.engines[call.engine].failed += 1
        self.ended_early(call, "failed", at)

    def ended_early(self, call: Call, status: str, at: float) -> None:
        """Records that a call under way ended without a result: `failed`, `cancelled` by its client, or
        `refused` by the engine as a bad request. Does nothing if it has ended already."""
        if call.engine is None:
            return
        self._note("ended_early", call=call.id, status=status, at=at)
        if not call.answering:
            self._tenants[call.tenant].contexts.retract(call.predicted, call.engine)
        self._release(call, at, answered=False)
        if call.step is not None:
            call.step.status, call.step.finished_at = status, at

    def continued(self, tenant: str, digest: bytes, after: bytes, size: int, at: float) -> None:
        """Records what a digest of lineage stands for: a context, and `size` bytes that were answered to it.

        To be called before the call that names it arrives.
        """
        self._note("continued", tenant=tenant, digest=digest, after=after, size=size, at=at)
        reply = Segment(type=SegmentType.CONVERSATION_TURN, digest=digest, size=size)
        self._tenants[tenant].contexts.declare(after, (reply,))

    # --- everything else that is observed

    def observe(self, tenant: str, event: Event, at: float) -> Rejection | None:
        """Takes in a lifecycle event; returns why it could not be used, if so."""
        if self._mode is Mode.OFF:
            return Rejection(event.type, HINTS_OFF)
        self._note("observe", tenant=tenant, event=event, at=at)
        refused = self._tenants[tenant].graph.apply(event, at)
        if refused is None:
            self._advise(self._tenants[tenant].advice, event, at)
        return refused

    def report(self, engine: str, batch: ResidencyBatch, at: float) -> bool:
        """Takes in what an engine says of its cache; returns False if a new snapshot is needed."""
        self._note("report", engine=engine, batch=batch, at=at)
        state = self.engines[engine]
        if not batch.snapshot and (batch.epoch != state.epoch or batch.seq != state.seq + 1):
            self._clear(engine)
            return False
        state.epoch, state.seq = batch.epoch, batch.seq
        for tenant in self._tenants.values():
            tenant.contexts.report(engine, batch, tenant.scope)
        return True

    def engine_silent(self, engine: str, at: float) -> None:
        """An engine tells nothing of its cache, though it may have before: `cached_tokens` must do."""
        if self.engines[engine].epoch is not None:
            self._note("engine_silent", engine=engine, at=at)
            self._clear(engine)

    def engine_up(self, engine: str, at: float) -> None:
        if not self.engines[engine].up:
            self._note("engine_up", engine=engine, at=at)
            self.engines[engine].up = True

    def engine_down(self, engine: str, at: float) -> None:
        """An engine that cannot be reached is presumed to have lost its cache."""
        state = self.engines[engine]
        if state.up:
            self._note("engine_down", engine=engine, at=at)
            state.up, state.kv, state.load = False, None, None
            self._clear(engine)

    def engine_kv(self, engine: str, kv: EngineKv | None, at: float) -> None:
        """Notes which directives an engine takes and what its work costs; None if it takes none."""
        self._note("engine_kv", engine=engine, kv=kv, at=at)
        self.engines[engine].kv = kv

    def engine_load(self, engine: str, load: EngineLoad, at: float) -> None:
        """Notes what an engine tells of all its work: what others have sent it counts in placement."""
        self._note("engine_load", engine=engine, load=load, at=at)
        self.engines[engine].load, self.engines[engine].load_at = load, at

    def wake_at(self) -> float | None:
        """Returns when `tick` is due, in seconds of the body's clock; None if nothing waits for a time."""
        times = [at for tenant in self._tenants.values() if (at := tenant.advice.wake_at()) is not None]
        return min(times) if times else None

    def tick(self, at: float) -> None:
        """Does what has fallen due by `at`."""
        self._note("tick", at=at)
        for tenant in self._tenants.values():
            tenant.advice.tick(at)

    # --- directives

    def take_directives(self) -> list[Issued]:
        """Returns what is to be delivered to engines, in order; each is returned once."""
        return self._ledger.take()

    def directive_answered(self, issued_id: str, outcome: DirectiveOutcome | None, at: float) -> None:
        """Records an engine's answer to a directive; None if it could not be delivered."""
        self._note("directive_answered", issued=issued_id, outcome=outcome, at=at)
        answered = self._ledger.answered(issued_id)
        if answered is None:
            return
        issued = answered.issued
        result = outcome.outcome if outcome is not None else UNDELIVERED
        self._count(issued, result)
        directive = issued.directive
        predicted = self._copying.pop(issued_id, None)
        if predicted and result != "applied":
            self._tenants[issued.tenant].contexts.retract(predicted, issued.engine)
        if result in ("applied", "clipped"):
            self._warmed(issued, result)
        elif isinstance(directive, Prefetch) and answered.at_hand in self._under_way:
            # What it cannot fetch it can still be made to compute.
            warm = Warm(digest=directive.digest, scope=directive.scope)
            warming = self._issue(issued.tenant, issued.engine, warm, issued.program, answered.at_hand)
            if warming is not None:
                self._ledger.stands_in(warming)
        elif issued.program and (answered.stands_in or _copies(directive)):
            self._tenants[issued.tenant].advice.copy_failed(issued.program, issued.engine, directive.digest)

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

    def _note(self, name: str, **fields: object) -> None:
        if self._journal is not None:
            self._journal.note(name, fields)

    def _candidates(self, contexts: Contexts, digest: bytes | None, at: float) -> list[Candidate]:
        holdings = contexts.holdings(digest)
        candidates = []
        for name, state in self.engines.items():
            if not state.up:
                continue
            resident = holdings.on_device.get(name, 0)
            held = holdings.resident.get(name)
            depth = held.depth if held is not None else 0
            source = self._source(holdings, name)
            copyable = holdings.certain[source].depth - depth if source is not None else 0
            others = state.others(at)
            candidates.append(
                Candidate(
                    engine=name,
                    resident=resident,
                    queued=state.queued + others.waiting * OTHERS_TOKENS * BYTES_PER_TOKEN,
                    running=state.running + others.running,
                    branches=state.branches,
                    loadable=depth - resident,
                    copyable=copyable,
                )
            )
        return candidates

    def _source(self, holdings: Holdings, engine: str) -> str | None:
        """Returns the peer from which an engine may best copy more of a context than it holds."""
        kv = self.engines[engine].kv
        if self._mode is not Mode.ACT or kv is None or kv.rates is None or "prefetch" not in kv.directives:
            return None
        copying, computing = kv.rates.peer_s_per_token, kv.rates.prefill_s_per_token
        if copying is None or copying > COPY_MAX_COST * computing:
            return None
        # The longest come first.
        best = next((name for name in holdings.certain if name != engine and self.engines[name].up), None)
        if best is None:
            return None
        held = holdings.resident.get(engine)
        spared = holdings.certain[best].depth - (held.depth if held is not None else 0)
        return best if spared >= COPY_MIN_BYTES else None

    def _copy_for(self, call: Call, engine: str, holdings: Holdings) -> str | None:
        """Has an engine that a call goes to copy what a peer holds of its context."""
        source = self._source(holdings, engine)
        if source is None:
            return None
        scope = self._tenants[call.tenant].scope
        directive = Prefetch(digest=holdings.certain[source].digest, scope=scope, peer=source)
        return self._issue(call.tenant, engine, directive, call.program, None)

    def _advise(self, advice: Advice, event: Event, at: float) -> None:
        if isinstance(event, ToolStarted):
            advice.tool_started(event.program, event.branch, event.tool, event.expected, event.sigma, at)
        elif isinstance(event, BranchEnded):
            advice.branch_ended(event.program, event.branch)
        elif isinstance(event, ProgramFinished):
            advice.program_ended(event.program)
        elif isinstance(event, Superseded):
            advice.superseded(event.program, event.branch, event.digest)
        elif isinstance(event, ForkDeclared):
            within = event.position.id if event.position is not None else None
            advice.fork_declared(event.program, event.branch, event.fork, event.width, at, within=within)

    def _issue(
        self, tenant: str, engine: str, directive: Directive, program: str | None, call: int | None
    ) -> str | None:
        """Queues a directive; returns its id, or None if it is withheld."""
        issued = self._ledger.issue(engine, directive, tenant, program, call)
        self._note("directive", issued=issued)
        if self._mode is not Mode.ACT:
            for withheld in self._ledger.drop():
                self._count(withheld, WITHHELD)
            return None
        if _copies(directive):
            self._copying[issued.id] = self._tenants[tenant].contexts.predict(directive.digest, engine)
            if len(self._copying) > PENDING_MAX:
                self._copying.popitem(last=False)
        return issued.id

    def _warmed(self, issued: Issued, result: str) -> None:
        """Takes it from a warm-up that an engine which tells nothing of its cache holds the context."""
        warmed = isinstance(issued.directive, Warm) and issued.call is not None and result == "applied"
        if warmed and self.engines[issued.engine].epoch is None:
            self._tenants[issued.tenant].contexts.settle(issued.directive.digest, issued.engine)

    def _count(self, issued: Issued, result: str) -> None:
        record = self._tenants[issued.tenant].graph.get(issued.program) if issued.program else None
        if record is not None:
            counts = record.directives.setdefault(issued.directive.type, {})
            counts[result] = counts.get(result, 0) + 1

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

    def _release(self, call: Call, at: float, *, answered: bool) -> None:
        assert call.engine is not None
        state = self.engines[call.engine]
        state.running -= 1
        state.branches -= call.of_branch
        state.context -= call.size
        state.occupancy.leave(call.occupies)
        if answered:
            state.occupancy.took(at - call.dispatched_at)
        if not call.answering:
            state.queued -= call.missing
        self._under_way.discard(call.id)
        call.engine = None
        if call.step is not None and call.program is not None:
            advice = self._tenants[call.tenant].advice
            advice.ended(call.program, call.step.declared, call.forecast, at, answered=answered)

    def _ack(self, arrival: Arrival, digest: bytes | None) -> Ack | None:
        decoded = arrival.decoded
        if decoded is None:
            return None
        if self._mode is Mode.OFF:
            return Ack(rejected=(Rejection("hints", HINTS_OFF),))
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


def _copies(directive: Directive) -> bool:
    return isinstance(directive, Prefetch) and directive.peer is not None


def _priority(hints: Hints | None) -> int | None:
    declared = hints.program.priority if hints is not None else DEFAULT_PRIORITY
    return declared if declared != DEFAULT_PRIORITY else None
