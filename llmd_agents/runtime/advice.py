"""The rules by which one tenant's hints become directives.

- Context that only an ended branch, an ended program or a superseded turn used is dead: release.
- A branch that waits will be back: retain its context with an estimate of when, from the declared duration
  of the tool that it waits for and from how long such waits took before.
- A fork that was declared, or forecast on the step before it, starts replication, by cost.
- What waits in a lower tier is prefetched shortly before its branch is expected back, if loading it then
  would be felt.

What is issued is advice to engines that take it; nothing here changes what a call is answered.
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

from llmd_agents.hints import Directive, EngineKv, Forecast, Next, Prefetch, Release, Retain, Step, Tier, Warm
from llmd_agents.hints.limits import SECONDS_MAX

from .contexts import Context, Contexts
from .declared import DeclaredProgram, ForkTrust
from .durations import Durations
from .load import OTHERS_TOKENS, Occupancy, Others
from .prediction import Prediction
from .replication import DEFAULT_OUTPUT_TOKENS, DEFAULT_RATES, Plan, Site, plan_fork, ways_to_hold
from .tips import EARLIER_MAX, Tip

PRIORS: Final = {Next.TOOL: Prediction(8.0, 1.3), Next.HUMAN: Prediction(240.0, 1.3)}
"""Waits of which nothing was seen yet: as recorded coding sessions have them."""

OBSERVATIONS_MIN: Final = 5
"""Waits that were not declared are predicted from so many of their kind on."""

SHORT_S: Final = 0.5
"""A wait that is shorter needs no estimate: its context is the most recently used anyway."""

FELT_S: Final = 0.03
"""Loading that takes no longer than this is left until it is asked for."""

SURE_SIGMA: Final = 1.0
"""Prefetch needs an estimate that is at least as sure as this."""

EARLY: Final = 0.674
"""Standard deviations before the median at which a prefetch should be done: a quarter is back before that."""

TRUSTED_SIGMA: Final = 1.5
"""Estimates less sure than this lose weight against least-recently-used order."""

PROGRAMS_MAX: Final = 10_000
TIMERS_MAX: Final = 50_000


class EngineView(Protocol):
    """What the rules read of an engine's state (`EngineState`)."""

    up: bool
    kv: EngineKv | None
    running: int
    queued: int
    context: int
    occupancy: Occupancy

    def others(self, at: float) -> Others: ...


Issue: TypeAlias = Callable[[str, Directive, str, int | None], None]
"""Issues a directive: engine, directive, program, and the call whose body a warm-up needs, or a prefetch that
the engine turns out to be unable to carry out."""


class Advice:
    """One tenant's rules and what they remember; bounded.

    Args:
        scope: under which engines know the tenant's contexts.
        engines: all of the fleet, read when a rule needs them.
        issue: called with each directive.
    """

    def __init__(
        self, scope: str | None, contexts: Contexts, engines: Mapping[str, EngineView], issue: Issue
    ) -> None:
        self._scope = scope
        self._contexts = contexts
        self._engines = engines
        self._issue = issue
        self._programs: OrderedDict[str, DeclaredProgram] = OrderedDict()
        self._durations = Durations()
        self._trust = ForkTrust()
        self._timers: list[tuple[float, int, str, Tip, int]] = []
        self._order = itertools.count()

    # --- steps

    def arrived(
        self, program: str, workflow: str | None, step: Step, digest: bytes | None, at: float
    ) -> None:
        """A step has come in."""
        record = self._open(program, workflow)
        tip, given_up = record.tips.at((step.branch, step.agent))
        for lost in given_up:
            self._leave(program, lost)
        self._durations.end(tip, at)
        follows = tip.under_way == 0 and tip.step in step.parents
        tip.uses += 1
        tip.idle_since = tip.wait = None
        tip.step = step.id
        if step.fork is not None:
            record.begin(step.fork.id)
        if digest is not None and digest != tip.digest:
            self._move(program, tip, digest, follows=follows)

    def dispatched(self, program: str, step: Step) -> None:
        """A step's call was sent to an engine."""
        record = self._programs.get(program)
        tip = record.tips.get((step.branch, step.agent)) if record is not None else None
        if tip is not None:
            tip.under_way += 1
            tip.idle_since = None

    def answering(
        self, program: str, step: Step, forecast: Forecast | None, engine: str, call: int, at: float
    ) -> None:
        """A step's prompt has been computed on an engine."""
        record = self._programs.get(program)
        tip = record.tips.get((step.branch, step.agent)) if record is not None else None
        if record is None or tip is None:
            return
        if tip.engine is not None and tip.engine != engine:
            self._moved(program, tip, tip.engine)
        tip.engine = engine
        if forecast is None or forecast.next is not Next.FORK or not forecast.fan_out:
            return
        plan = self._plan(record, tip, forecast.fan_out, at)
        if plan is not None:
            record.expected[step.branch] = plan
            self._replicate(program, plan, tip.engine, call)

    def ended(
        self, program: str, step: Step, forecast: Forecast | None, at: float, *, answered: bool
    ) -> None:
        """A step's call has ended, with or without an answer."""
        record = self._programs.get(program)
        tip = record.tips.get((step.branch, step.agent)) if record is not None else None
        if record is None or tip is None or tip.under_way == 0:
            return
        tip.under_way -= 1
        if tip.under_way or tip.digest is None or not answered:
            return
        tip.idle_since = tip.wait_since = at
        follows = forecast.next if forecast is not None else None
        tip.wait = f"step\0{record.workflow}\0{step.agent}\0{step.kind}\0{follows}"
        hinted = forecast.after if forecast is not None else None
        sigma = forecast.sigma if forecast is not None else None
        prior = PRIORS.get(follows) if follows is not None else None
        self._durations.begin(tip, tip.wait, at, hinted, prior)
        prediction = self._durations.predict(tip.wait, at, hinted, sigma, prior)
        if prediction is None:
            return
        announced = prior is not None or hinted is not None
        if announced or prediction.observations >= OBSERVATIONS_MIN:
            self._expect(program, tip, prediction, at)

    def output(self, program: str, step: Step, tokens: int) -> None:
        """Learns how much a fork's branches generate: their successors are planned by it."""
        record = self._programs.get(program)
        if record is not None and step.fork is not None:
            self._durations.observe(_output_of(record), float(max(tokens, 1)))

    # --- events

    def tool_started(
        self, program: str, branch: str, tool: str, expected: float | None, sigma: float | None, at: float
    ) -> None:
        """A branch waits for a tool."""
        record = self._programs.get(program)
        tips = record.tips.of_branch(branch) if record is not None else []
        tip = next((tip for tip in reversed(tips) if tip.idle_since is not None), None)
        if tip is None:
            return
        wait = f"tool\0{tool}"
        if tip.wait is not None and tip.wait.startswith("tool\0") and tip.wait_since == at:
            return  # tools that run at once: the first declared stands for them
        prior = PRIORS[Next.TOOL]
        tip.wait, tip.wait_since = wait, at
        self._durations.begin(tip, wait, at, expected, prior)
        prediction = self._durations.predict(wait, at, expected, sigma, prior)
        assert prediction is not None, "a prior was given"
        self._expect(program, tip, prediction, at)

    def branch_ended(self, program: str, branch: str) -> None:
        """No further step comes on a branch."""
        record = self._programs.get(program)
        for tip in record.tips.end_branch(branch) if record is not None else ():
            self._leave(program, tip)

    def program_ended(self, program: str) -> None:
        """No further step of a program comes, or it was forgotten."""
        record = self._programs.pop(program, None)
        if record is None:
            return
        for tip in record.tips.end():
            self._leave(program, tip)
        self._trust.learn(record.workflow, *record.forks())

    def superseded(self, program: str, branch: str, digest: bytes) -> None:
        """A branch's context was rewritten and will not be extended again."""
        record = self._programs.get(program)
        for tip in record.tips.of_branch(branch) if record is not None else ():
            if tip.under_way == 0 and digest in tip.path:
                self._give_up(program, tip.path, tip.engine)
                tip.digest, tip.path = None, ()

    def fork_declared(
        self, program: str, branch: str, fork: str, width: int, at: float, *, within: str | None = None
    ) -> None:
        """Branches are about to start from a branch's context; the branch may be `within` another fork."""
        record = self._programs.get(program)
        if record is None:
            return
        if within is not None:
            record.begin(within)
        if fork in record.plans:
            return
        self._begin(program, record, branch, fork, width, at)

    # --- what placement asks, and what engines answer

    def place(self, program: str, fork: str, index: int, digest: bytes | None, at: float) -> str | None:
        """Returns the engine that a fork's branch was planned for; None without a plan for its context."""
        record = self._programs.get(program)
        if record is None:
            return None
        path = {context.digest for context in self._contexts.path(digest)}
        if fork not in record.plans:
            # Its branches may come before the event that declares it, but not before the forecast of it.
            for branch, plan in record.expected.items():
                if plan.digest in path:
                    self._begin(program, record, branch, fork, len(plan.engines), at)
                    break
        planned = record.plans.get(fork)
        if planned is None or planned.digest not in path:
            return None
        return planned.engines[index % len(planned.engines)]

    def copy_failed(self, program: str, engine: str, digest: bytes) -> None:
        """An engine cannot get a context that it was to have: branches to come go to the others."""
        record = self._programs.get(program)
        if record is None:
            return
        for plans in (record.plans, record.expected):
            for key, plan in plans.items():
                if plan.digest == digest and engine in plan.ways and len(plan.ways) > 1:
                    plans[key] = plan.without(engine)

    # --- time

    def wake_at(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def tick(self, at: float) -> None:
        """Does what has fallen due by `at`."""
        while self._timers and self._timers[0][0] <= at:
            _, _, program, tip, uses = heapq.heappop(self._timers)
            if tip.uses == uses and tip.idle_since is not None:
                self._prefetch(program, tip)

    # --- tips

    def _open(self, program: str, workflow: str | None) -> DeclaredProgram:
        record = self._programs.get(program)
        if record is None:
            record = self._programs[program] = DeclaredProgram(workflow or "")
            if len(self._programs) > PROGRAMS_MAX:
                self.program_ended(next(iter(self._programs)))
        else:
            self._programs.move_to_end(program)
        return record

    def _move(self, program: str, tip: Tip, digest: bytes, *, follows: bool) -> None:
        """Puts a tip at the end of another context, and gives up what it leaves for good."""
        path, old = self._contexts.use(digest), tip.path
        tip.digest, tip.path = digest, path
        if not old or old[0] in path:
            self._contexts.leave(old)
        elif follows and old[-1] == path[-1]:
            # The same beginning, and another end after the answer to the old one: it was rewritten.
            self._give_up(program, old, tip.engine)
        else:
            tip.earlier.append(old)
            if len(tip.earlier) > EARLIER_MAX:
                self._give_up(program, tip.earlier.pop(0), tip.engine)

    def _leave(self, program: str, tip: Tip) -> None:
        tip.uses += 1  # no timer of its may act any more
        self._durations.drop(tip)
        for path in (*tip.earlier, tip.path):
            self._give_up(program, path, tip.engine)

    def _give_up(self, program: str, path: tuple[bytes, ...], engine: str | None) -> None:
        """Takes a path out of use and releases what nobody else uses of it, wherever it is held."""
        self._contexts.leave(path)
        dead, keep = self._contexts.dead_part(path)
        told: set[str] = set()
        for context in dead:  # the deepest first: one release covers what precedes it
            for name in (engine, *context.holders):
                if name is None or name in told or not self._takes(name, "release"):
                    continue
                if name in context.holders:
                    told.add(name)
                    release = Release(digest=context.digest, scope=self._scope, keep=keep)
                    self._issue(name, release, program, None)

    def _moved(self, program: str, tip: Tip, left: str) -> None:
        """Releases what a tip leaves on an engine, unless others use it: one copy of it is enough."""
        if not self._takes(left, "release"):
            return
        digest = None
        for context in self._contexts.path(tip.digest):
            if context.users > 1 or context.shared:
                break
            if digest is None and left in context.holders:
                digest = context.digest
        else:
            context = None
        if digest is not None:
            keep = context.digest if context is not None else None
            self._issue(left, Release(digest=digest, scope=self._scope, keep=keep), program, None)

    # --- estimates

    def _expect(self, program: str, tip: Tip, prediction: Prediction, at: float) -> None:
        """Tells the engine that holds a tip's context when it will be back, and plans a prefetch."""
        if tip.engine is None or tip.digest is None or prediction.median < SHORT_S:
            return
        if self._takes(tip.engine, "retain"):
            spread = math.exp(min(3 * prediction.sigma, 20.0))
            retain = Retain(
                digest=tip.digest,
                scope=self._scope,
                after=min(prediction.median, SECONDS_MAX),
                sigma=min(prediction.sigma, 10.0),
                expires=min(prediction.median * spread, SECONDS_MAX),
                weight=min(1.0, (TRUSTED_SIGMA / prediction.sigma) ** 2),
            )
            self._issue(tip.engine, retain, program, None)
        if prediction.sigma <= SURE_SIGMA and self._load_s(tip) >= FELT_S:
            early = prediction.median * math.exp(-EARLY * prediction.sigma)
            due = at + max(early - self._load_s(tip), 0.0)
            if len(self._timers) < TIMERS_MAX:
                heapq.heappush(self._timers, (due, next(self._order), program, tip, tip.uses))

    def _load_s(self, tip: Tip) -> float:
        """Seconds to load a tip's context from the lower tiers of its engine; 0 where that cannot be."""
        kv = self._engines[tip.engine].kv if tip.engine is not None else None
        context = self._contexts.get(tip.digest) if tip.digest is not None else None
        if kv is None or kv.rates is None or kv.rates.host_s_per_token is None or context is None:
            return 0.0
        return context.tokens * kv.rates.host_s_per_token

    def _prefetch(self, program: str, tip: Tip) -> None:
        """Has an engine load what it holds in a lower tier, if the call that comes would wait for it."""
        engine = tip.engine
        if engine is None or tip.digest is None or not self._takes(engine, "prefetch"):
            return
        if self._engines[engine].queued:
            return  # the call will wait for others anyway, and loading goes on meanwhile
        holdings = self._contexts.holdings(tip.digest)
        held = holdings.resident.get(engine)
        if held is None or held.depth <= holdings.on_device.get(engine, 0):
            return
        tiers = held.holders[engine].tiers
        for tier in (Tier.HOST, Tier.STORAGE):
            if tier.value in tiers:
                directive = Prefetch(digest=held.digest, scope=self._scope, tier=tier.value)
                self._issue(engine, directive, program, None)
                return

    # --- forks

    def _plan(self, record: DeclaredProgram, tip: Tip, width: int, at: float) -> Plan | None:
        context = self._contexts.get(tip.digest) if tip.digest is not None else None
        if context is None:
            return None
        learned = self._durations.observed(_output_of(record))
        tokens = context.tokens
        copies = self._trust.runs(record.workflow)
        holdings = self._contexts.holdings(context.digest)
        held, on_device, parts = holdings.resident, holdings.on_device, holdings.parts()
        source = self._source(context, tip.engine)
        sites = []
        for name, state in self._engines.items():
            if not state.up:
                continue
            rates = state.kv.rates if state.kv is not None and state.kv.rates is not None else DEFAULT_RATES
            others = state.others(at)
            way, ready_s = ways_to_hold(
                tokens,
                rates,
                held=on_device.get(name, 0) >= context.depth,
                loadable=name in held and held[name].depth >= context.depth,
                copyable=copies and source is not None and self._takes(name, "prefetch"),
                queued_tokens=state.queued // 4 + others.waiting * OTHERS_TOKENS,
            )
            capacity = state.kv.tiers.get(Tier.DEVICE.value) if state.kv is not None else None
            if capacity:
                missing = state.occupancy.missing(parts)
                ready_s += state.occupancy.wait_s(missing, capacity)
            running = state.running + others.running
            others_context = others.running * OTHERS_TOKENS
            sites.append(Site(name, rates, way, ready_s, running, state.context // 4 + others_context))
        output = learned.median if learned is not None else DEFAULT_OUTPUT_TOKENS
        return plan_fork(context.digest, width, tokens, sites, output)

    def _begin(
        self, program: str, record: DeclaredProgram, branch: str, fork: str, width: int, at: float
    ) -> None:
        """Plans a fork whose branches are about to start from a branch's context.

        A plan that was made when it was forecast has brought the context to engines; since then others may
        have got work that branches would wait for.
        """
        plan = record.expected.pop(branch, None)
        tips = record.tips.of_branch(branch)
        if tips and (plan is None or plan.digest == tips[-1].digest):
            fresh = self._plan(record, tips[-1], width, at)
            if fresh is not None:
                self._replicate(program, fresh, tips[-1].engine, None)
                plan = fresh
        record.declare(fork, width, plan)

    def _source(self, context: Context, computed_by: str | None) -> str | None:
        """Returns an engine that holds a context whole, on the device if there is one: it says so, or has
        just computed it."""
        holders = [
            name
            for name, residence in context.holders.items()
            if (residence.certain or name == computed_by) and self._engines[name].up
        ]
        holders.sort(key=lambda name: Tier.DEVICE.value not in context.holders[name].tiers)
        return holders[0] if holders else None

    def _replicate(self, program: str, plan: Plan, computed_by: str | None, call: int | None) -> None:
        context = self._contexts.get(plan.digest)
        source = self._source(context, computed_by) if context is not None else None
        for engine, way in plan.ways.items():
            directive: Directive | None = None
            if way == "copy" and source is not None:
                directive = Prefetch(digest=plan.digest, scope=self._scope, peer=source)
            elif way == "load" and self._takes(engine, "prefetch"):
                directive = Prefetch(digest=plan.digest, scope=self._scope, tier=Tier.HOST)
            elif way == "compute" and call is not None:
                directive = Warm(digest=plan.digest, scope=self._scope)
            if directive is not None:
                self._issue(engine, directive, program, call)

    def _takes(self, engine: str, directive: str) -> bool:
        state = self._engines[engine]
        return state.up and state.kv is not None and directive in state.kv.directives


def _output_of(record: DeclaredProgram) -> str:
    return f"output\0{record.workflow}"
