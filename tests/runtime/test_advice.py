"""The rules, told as stories: what programs do, and what engines are then asked."""

from collections.abc import Sequence
from typing import Any

import pytest

from llmd_agents.hints import (
    BranchEnded,
    Decoded,
    Directive,
    DirectiveOutcome,
    EngineKv,
    EngineRates,
    Event,
    Forecast,
    ForkDeclared,
    ForkPosition,
    Hints,
    Next,
    Prefetch,
    Program,
    ProgramFinished,
    ProgramStarted,
    Release,
    ResidencyBatch,
    ResidencyChange,
    Retain,
    Step,
    Superseded,
    ToolFinished,
    ToolStarted,
    Warm,
    chain,
    segments_of,
)
from llmd_agents.runtime import Arrival, Call, Issued, Mode, Runtime, Usage, program_view

KV = EngineKv(
    epoch="e",
    directives=("retain", "release", "prefetch", "demote", "warm"),
    rates=EngineRates(
        prefill_s_per_token=5e-5,
        step_s=7e-3,
        decode_s_per_seq=5e-5,
        decode_s_per_context_token=6.5e-8,
        host_s_per_token=5e-6,
        peer_s_per_token=3e-6,
    ),
    tiers={"device": 400_000, "host": 400_000},
)
SYSTEM = "s" * 4_000
LONG = "x" * 120_000


class Story:
    """A runtime whose engines all take directives, and an application that tells it things."""

    def __init__(self, *engines: str, kv: EngineKv | None = KV, **options: Any) -> None:
        self.runtime = Runtime(engines or ("a", "b", "c"), **options)
        self.at = 0.0
        self._seq = dict.fromkeys(self.runtime.engines, 0)
        self.counted: list[tuple[str, Directive]] = []
        for engine in self.runtime.engines:
            if kv is not None:
                self.runtime.engine_kv(engine, kv, 0.0)

    def start(self, program: str = "p") -> None:
        self.tell(ProgramStarted(program=program, at=0, declared=Program(id=program, name="flow")))

    def tell(self, event: Event) -> None:
        assert self.runtime.observe("default", event, self.at) is None

    def arrive(
        self,
        step: str,
        texts: Sequence[str],
        *,
        program: str = "p",
        branch: str = "main",
        agent: str | None = None,
        parents: tuple[str, ...] = (),
        fork: ForkPosition | None = None,
        forecast: Forecast | None = None,
    ) -> Call:
        messages = [{"role": "system" if text == SYSTEM else "user", "content": text} for text in texts]
        hints = Hints(
            program=Program(id=program, name="flow"),
            step=Step(id=step, branch=branch, agent=agent, parents=parents, fork=fork),
            segments=segments_of(chain({"model": "m", "messages": messages})),
            forecast=forecast,
        )
        return self.runtime.arrive(Arrival("default", 10, self.at, decoded=Decoded(hints)))

    def step(self, step: str, texts: Sequence[str], *, engine: str | None = None, **given: Any) -> Call:
        """A step that is answered at once."""
        call = self.arrive(step, texts, **given)
        engine = engine or call.ranking[0]
        self.runtime.dispatched(call, engine, self.at)
        self.runtime.answering(call, self.at)
        self.runtime.finished(call, Usage(30_000, None, 100), self.at)
        return call

    def report(self, engine: str, digest: bytes, tier: str, *, resident: bool, tokens: int = 30_000) -> None:
        change = ResidencyChange(digest=digest, tier=tier, tokens=tokens, resident=resident)
        first = self._seq[engine] == 0
        batch = ResidencyBatch(epoch="e", seq=self._seq[engine], snapshot=first, changes=(change,))
        self._seq[engine] += 1
        assert self.runtime.report(engine, batch, self.at)

    def issued(self, kind: type[Any]) -> list[tuple[str, Any]]:
        """Directives of one kind since the last question, with their engines."""
        self.counted += [(one.engine, one.directive) for one in self.runtime.take_directives()]
        found = [(engine, directive) for engine, directive in self.counted if isinstance(directive, kind)]
        self.counted = [one for one in self.counted if not isinstance(one[1], kind)]
        return found


# --- dead context


def test_a_program_that_ends_leaves_its_own_context_dead_and_the_shared_head_alive() -> None:
    story = Story()
    story.start()
    call = story.step("s1", [SYSTEM, LONG], engine="b")
    head = chain({"model": "m", "messages": [{"role": "system", "content": SYSTEM}]})[-1].digest
    story.tell(ProgramFinished(program="p", at=0))
    assert story.issued(Release) == [("b", Release(digest=call.digest or b"", keep=head))]


def test_a_branch_that_ends_spares_what_others_still_use() -> None:
    story = Story()
    story.start()
    root = story.step("s1", [LONG], engine="a")
    left = story.step("s2", [LONG, "left"], engine="a", branch="f1.0")
    right = story.step("s3", [LONG, "right"], engine="b", branch="f1.1")
    story.tell(BranchEnded(program="p", at=0, branch="f1.0"))
    assert story.issued(Release) == [("a", Release(digest=left.digest or b"", keep=root.digest))]
    story.tell(BranchEnded(program="p", at=0, branch="f1.1"))
    assert story.issued(Release) == [("b", Release(digest=right.digest or b"", keep=root.digest))]


def test_two_programs_on_one_context_the_first_end_releases_nothing() -> None:
    story = Story()
    for program in ("p", "q"):
        story.start(program)
        story.step("s1", [LONG], engine="a", program=program)
    story.tell(ProgramFinished(program="p", at=0))
    assert story.issued(Release) == []
    story.tell(ProgramFinished(program="q", at=0))
    assert len(story.issued(Release)) == 1


def test_a_longer_turn_keeps_the_shorter_one_alive_and_compaction_does_not() -> None:
    story = Story()
    story.start()
    story.step("s1", [SYSTEM, "long history"], engine="a")
    long = story.step("s2", [SYSTEM, "long history", "reply", "more"], engine="a", parents=("s1",))
    assert story.issued(Release) == []
    story.step("s3", [SYSTEM, "summary"], engine="a", parents=("s2",))
    ((engine, release),) = story.issued(Release)
    assert (engine, release.digest) == ("a", long.digest)


def test_agents_that_take_turns_on_one_branch_do_not_supersede_each_other() -> None:
    story = Story()
    story.start()
    story.step("s1", [SYSTEM, "search"], agent="researcher", engine="a")
    story.step("s2", [SYSTEM, "judge"], agent="analyst", engine="a", parents=("s1",))
    story.step("s3", [SYSTEM, "search", "found", "again"], agent="researcher", engine="a", parents=("s2",))
    assert story.issued(Release) == []


def test_superseded_by_declaration() -> None:
    story = Story()
    story.start()
    call = story.step("s1", [SYSTEM, LONG], engine="a")
    story.tell(Superseded(program="p", at=0, digest=call.digest or b""))
    assert len(story.issued(Release)) == 1


# --- estimates


def test_the_duration_of_a_tool_becomes_an_estimate() -> None:
    story = Story()
    story.start()
    call = story.step("s1", [LONG], engine="b")
    story.tell(ToolStarted(program="p", at=0, call="t1", tool="search", expected=20, sigma=0.2))
    ((engine, retain),) = story.issued(Retain)
    assert (engine, retain.digest) == ("b", call.digest)
    assert 15 < retain.after < 21
    assert retain.expires > retain.after
    assert retain.weight == 1.0


def test_forecasts_that_are_a_hundred_times_too_long_are_corrected() -> None:
    story = Story()
    story.start()
    texts = [LONG]
    for turn in range(30):
        story.step(f"s{turn}", texts, engine="b", parents=(f"s{turn - 1}",) if turn else ())
        story.tell(ToolStarted(program="p", at=0, call=f"t{turn}", tool="search", expected=300))
        story.at += 3.0
        story.tell(ToolFinished(program="p", at=0, call=f"t{turn}", tool="search"))
        texts = [*texts, "reply", "result"]
    estimates = [retain.after for _, retain in story.issued(Retain)]
    assert estimates[0] > 30
    assert 2 < estimates[-1] < 5


def test_undeclared_waits_are_learned_first() -> None:
    story = Story()
    story.start()
    texts = [LONG]
    for turn in range(8):
        story.step(f"s{turn}", texts, engine="b", parents=(f"s{turn - 1}",) if turn else ())
        texts = [*texts, "reply", "result"]
        story.at += 12.0
    estimates = [retain.after for _, retain in story.issued(Retain)]
    assert len(estimates) == 3  # after five waits were seen
    assert all(10 < after < 14 for after in estimates)


def test_a_human_pause_that_was_announced() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="b", forecast=Forecast(next=Next.HUMAN))
    ((_, retain),) = story.issued(Retain)
    assert retain.after == pytest.approx(240)


def test_engines_that_take_no_directives_get_none() -> None:
    story = Story(kv=None)
    story.start()
    story.step("s1", [LONG], engine="b")
    story.tell(ToolStarted(program="p", at=0, call="t1", tool="search", expected=20))
    story.tell(ProgramFinished(program="p", at=0))
    assert story.runtime.take_directives() == []
    assert story.runtime.wake_at() is None


# --- prefetch


def waiting_for_a_tool(story: Story) -> Call:
    story.start()
    call = story.step("s1", [LONG], engine="b")
    assert call.digest is not None
    story.report("b", call.digest, "device", resident=True)
    story.report("b", call.digest, "host", resident=True)
    story.tell(ToolStarted(program="p", at=0, call="t1", tool="search", expected=20, sigma=0.2))
    return call


def test_what_waits_in_a_lower_tier_is_prefetched_before_its_branch_is_back() -> None:
    story = Story()
    call = waiting_for_a_tool(story)
    assert call.digest is not None
    story.report("b", call.digest, "device", resident=False)
    due = story.runtime.wake_at()
    assert due is not None
    assert 10 < due < 20
    story.runtime.tick(due - 0.1)
    assert story.issued(Prefetch) == []
    story.runtime.tick(due)
    assert story.issued(Prefetch) == [("b", Prefetch(digest=call.digest, tier="host"))]
    assert story.runtime.wake_at() is None


def test_what_is_on_the_device_is_not_prefetched() -> None:
    story = Story()
    waiting_for_a_tool(story)
    story.runtime.tick(100.0)
    assert story.issued(Prefetch) == []


def test_nor_what_is_gone_or_came_back_or_would_wait_in_a_queue_anyway() -> None:
    gone = Story()
    call = waiting_for_a_tool(gone)
    assert call.digest is not None
    for tier in ("device", "host"):
        gone.report("b", call.digest, tier, resident=False)
    gone.runtime.tick(100.0)
    assert gone.issued(Prefetch) == []

    back = Story()
    call = waiting_for_a_tool(back)
    assert call.digest is not None
    back.report("b", call.digest, "device", resident=False)
    back.arrive("s2", [LONG, "reply", "result"], parents=("s1",))
    back.runtime.tick(100.0)
    assert back.issued(Prefetch) == []

    queued = Story()
    call = waiting_for_a_tool(queued)
    assert call.digest is not None
    queued.report("b", call.digest, "device", resident=False)
    other = queued.arrive("s9", ["y" * 50_000], program="q")
    queued.runtime.dispatched(other, "b", 0.0)
    queued.runtime.tick(100.0)
    assert queued.issued(Prefetch) == []


# --- forks


def fork(story: Story, width: int = 20) -> None:
    story.tell(ForkDeclared(program="p", at=0, fork="f1", width=width))


def children(story: Story, width: int = 20) -> list[Call]:
    return [
        story.arrive(
            f"c{index}",
            [LONG, "reply", f"branch {index}"],
            branch=f"f1.{index}",
            fork=ForkPosition(id="f1", index=index, width=width),
        )
        for index in range(width)
    ]


def test_a_declared_fork_copies_its_context_to_the_engines_that_it_will_use() -> None:
    story = Story()
    story.start()
    call = story.step("s1", [LONG], engine="a")
    fork(story)
    copies = story.issued(Prefetch)
    assert sorted(engine for engine, _ in copies) == ["b", "c"]
    assert all(one == Prefetch(digest=call.digest or b"", peer="a") for _, one in copies)
    placed = [child.ranking[0] for child in children(story)]
    assert sorted(placed.count(engine) for engine in "abc") == [6, 7, 7]


def test_a_forecast_on_the_step_before_starts_copying_as_soon_as_the_prompt_is_computed() -> None:
    story = Story()
    story.start()
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=20))
    story.runtime.dispatched(call, "a", 0.0)
    assert story.issued(Prefetch) == []
    story.runtime.answering(call, 1.0)
    assert len(story.issued(Prefetch)) == 2
    story.runtime.finished(call, Usage(30_000, 0, 100), 2.0)
    fork(story)
    assert story.issued(Prefetch) == []  # they are on their way
    assert {child.ranking[0] for child in children(story)} == {"a", "b", "c"}


def test_branches_under_way_are_counted() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    calls = children(story, 3)
    for call in calls:
        story.runtime.dispatched(call, "b", 0.0)
    assert story.runtime.engines["b"].branches == 3
    story.runtime.finished(calls[0], None, 1.0)
    story.runtime.failed(calls[1], 1.0)
    story.runtime.dispatched(calls[1], "c", 1.0)
    story.runtime.ended_early(calls[2], "cancelled", 1.0)
    assert [story.runtime.engines[engine].branches for engine in "abc"] == [0, 0, 1]


def test_a_fork_is_planned_anew_when_it_begins() -> None:
    """What has got work since it was forecast is avoided, though it has the context."""
    story = Story()
    story.start()
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=2))
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.finished(call, Usage(30_000, 0, 100), 1.0)
    for number in range(4):
        other = story.arrive("s1", [f"{number}: {LONG}"], program=f"other-{number}")
        story.runtime.dispatched(other, "a", 1.0)
    fork(story, 2)
    assert "a" not in {child.ranking[0] for child in children(story, 2)}


def test_a_short_context_is_not_worth_a_directive() -> None:
    story = Story(kv=KV.model_copy(update={"rates": None}))
    story.start()
    story.step("s1", ["short"], engine="a")
    fork(story, 2)
    assert story.issued(Prefetch) == []


def test_a_copy_that_failed_sends_the_branches_elsewhere() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    fork(story)
    for issued in story.runtime.take_directives():
        if issued.engine == "b":
            outcome = DirectiveOutcome(action_id=issued.id, outcome="rejected", reason="no room")
            story.runtime.directive_answered(issued.id, outcome, 0.0)
    assert "b" not in {child.ranking[0] for child in children(story)}


def test_branches_with_another_context_are_spread() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    fork(story, 6)
    engines = [
        story.arrive(
            f"c{index}",
            ["another beginning", str(index)],
            branch=f"f1.{index}",
            fork=ForkPosition(id="f1", index=index, width=6),
        ).ranking[0]
        for index in range(6)
    ]
    assert [engines.count(engine) for engine in "abc"] == [2, 2, 2]


def test_engines_that_cannot_copy_are_warmed_up_with_the_call_under_way() -> None:
    story = Story(kv=None)
    story.start()
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=60))
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.answering(call, 0.0)
    taken = story.runtime.take_directives()
    assert {one.engine for one in taken} == {"b", "c"}
    assert all(isinstance(one.directive, Warm) and one.call == call.id for one in taken)


def answer(story: Story, issued: Issued, outcome: str | None) -> list[Issued]:
    """Answers a directive; returns what follows from that."""
    told = None if outcome is None else DirectiveOutcome(action_id=issued.id, outcome=outcome)
    story.runtime.directive_answered(issued.id, told, story.at)
    return story.runtime.take_directives()


@pytest.mark.parametrize("outcome", ["rejected", "unsupported", None])
def test_a_copy_that_cannot_be_becomes_a_warm_up_while_its_call_is_under_way(outcome: str | None) -> None:
    story = Story()
    story.start()
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=60))
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.answering(call, 1.0)
    copy = next(one for one in story.runtime.take_directives() if one.engine == "b")
    assert (copy.directive, copy.call) == (Prefetch(digest=call.digest or b"", peer="a"), None)
    (warm,) = answer(story, copy, outcome)
    assert (warm.engine, warm.directive, warm.call) == ("b", Warm(digest=call.digest or b""), call.id)
    assert answer(story, warm, "applied") == []
    story.runtime.finished(call, Usage(30_000, 0, 100), 2.0)
    assert "b" in {child.ranking[0] for child in children(story)}


def test_once_the_call_has_ended_nothing_is_sent_in_place_of_a_copy() -> None:
    for ended in ("before the copy", "before the warm-up"):
        story = Story()
        story.start()
        call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=20))
        story.runtime.dispatched(call, "a", 0.0)
        story.runtime.answering(call, 1.0)
        failed = next(one for one in story.runtime.take_directives() if one.engine == "b")
        if ended == "before the warm-up":
            (failed,) = answer(story, failed, "rejected")
        story.runtime.finished(call, Usage(30_000, 0, 100), 2.0)
        fork(story)
        story.runtime.take_directives()
        assert answer(story, failed, None) == []
        # The branches go where the context is.
        assert "b" not in {child.ranking[0] for child in children(story)}


def test_a_warm_up_counts_as_held_by_an_engine_that_does_not_tell() -> None:
    story = Story("a", "b", kv=None)
    story.start()
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=60))
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.answering(call, 0.0)
    (warm,) = story.runtime.take_directives()
    contexts = story.runtime.contexts("default")
    assert set(contexts.holdings(call.digest).certain) == {"a"}
    assert answer(story, warm, "applied") == []
    assert set(contexts.holdings(call.digest).certain) == {"a", "b"}
    story.runtime.engine_down("b", 1.0)
    assert set(contexts.holdings(call.digest).certain) == {"a"}


def test_a_warm_up_does_not_count_as_held_where_that_is_told_or_failed() -> None:
    for told, outcome in ((True, "applied"), (False, "rejected")):
        story = Story("a", "b", kv=None)
        story.start()
        if told:
            other = chain({"model": "m", "messages": [{"role": "user", "content": "other"}]})[-1].digest
            story.report("b", other, "device", resident=True)
        call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=60))
        story.runtime.dispatched(call, "a", 0.0)
        story.runtime.answering(call, 0.0)
        (warm,) = story.runtime.take_directives()
        answer(story, warm, outcome)
        assert set(story.runtime.contexts("default").resident(call.digest)) == {"a"}


def test_forks_that_are_declared_and_never_run_stop_being_prepared() -> None:
    story = Story()
    copies = []
    for number in range(6):
        program = f"p{number}"
        story.start(program)
        story.step("s1", [LONG, program], engine="a", program=program)
        story.tell(ForkDeclared(program=program, at=0, fork="f1", width=20))
        copies.append(len(story.issued(Prefetch)))
        story.tell(ProgramFinished(program=program, at=0))
    assert copies[0] == 2
    assert copies[-1] == 0


def test_tools_that_a_program_was_handed_over_to_and_that_asked_no_model_do_not_count() -> None:
    story = Story()
    copies = []
    for number in range(6):
        program = f"p{number}"
        story.start(program)
        story.step("s1", [LONG, program], engine="a", program=program)
        for tool in range(5):
            story.tell(ForkDeclared(program=program, at=0, fork=f"h{tool}", width=1))
            story.tell(BranchEnded(program=program, at=0, branch=f"h{tool}.0", outcome="abandoned"))
        story.tell(ForkDeclared(program=program, at=0, fork="f1", width=20))
        copies.append(len(story.issued(Prefetch)))
        child = ForkPosition(id="f1", index=0, width=20)
        story.step("s2", [LONG, program], engine="a", program=program, branch="f1.0", fork=child)
        story.tell(ProgramFinished(program=program, at=0))
    assert copies == [2] * 6


def test_forks_whose_branches_only_fork_count_as_run() -> None:
    story = Story()
    copies = []
    for number in range(6):
        program = f"p{number}"
        story.start(program)
        story.step("s1", [LONG, program], engine="a", program=program)
        story.tell(ForkDeclared(program=program, at=0, fork="f1", width=20))
        copies.append(len(story.issued(Prefetch)))
        inner = ForkPosition(id="f1", index=0, width=20)
        story.tell(ForkDeclared(program=program, at=0, branch="f1.0", fork="f2", width=2, position=inner))
        inmost = ForkPosition(id="f2", index=0, width=2)
        story.tell(ForkDeclared(program=program, at=0, branch="f2.0", fork="f3", width=2, position=inmost))
        story.tell(ProgramFinished(program=program, at=0))
    assert copies == [2] * 6


# --- modes, tenants, limits


def test_observing_decides_and_withholds() -> None:
    acting, observing = Story(), Story(mode=Mode.OBSERVE)
    for story in (acting, observing):
        story.start()
        story.step("s1", [LONG], engine="a")
        fork(story)
    assert len(acting.issued(Prefetch)) == 2
    assert observing.runtime.take_directives() == []
    record = observing.runtime.program("default", "p")
    assert record is not None
    assert program_view(observing.runtime, "default", record)["directives"]["prefetch"] == {"withheld": 2}
    advised = {child.advised for child in children(observing)}
    assert advised == {"a", "b", "c"}
    # Routed by the plain rule meanwhile: where the context is.
    assert {child.ranking[0] for child in children(observing)} == {"a"}


def test_switched_off_hints_are_not_read() -> None:
    story = Story()
    story.start()
    story.runtime.set_mode(Mode.OFF, 0.0)
    call = story.arrive("s1", [LONG])
    assert call.program is None
    assert call.ack is not None
    assert call.ack.rejected[0].reason == "hints are switched off"
    refused = story.runtime.observe("default", ProgramFinished(program="p", at=0), 0.0)
    assert refused is not None
    story.runtime.set_mode(Mode.ACT, 1.0)
    assert story.arrive("s2", [LONG]).program == "p"


def test_leaving_act_drops_what_was_not_taken() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    fork(story)
    story.runtime.set_mode(Mode.OBSERVE, 0.0)
    assert story.runtime.take_directives() == []


def test_a_tenant_cannot_touch_another_tenants_program() -> None:
    story = Story(tenants={"default": "scope-a", "other": "scope-b"})
    story.start()
    story.step("s1", [LONG], engine="a")
    for event in (
        ProgramFinished(program="p", at=0),
        ForkDeclared(program="p", at=0, fork="f1", width=20),
        ToolStarted(program="p", at=0, call="t", tool="x", expected=5),
    ):
        refused = story.runtime.observe("other", event, 0.0)
        assert refused is not None
        assert refused.reason == "unknown program"
    assert story.runtime.take_directives() == []
    story.tell(ProgramFinished(program="p", at=0))
    ((_, release),) = story.issued(Release)
    assert release.scope == "scope-a"


def test_outcomes_are_counted_by_program() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    fork(story)
    first, second = story.runtime.take_directives()
    applied = DirectiveOutcome(action_id=first.id, outcome="applied")
    story.runtime.directive_answered(first.id, applied, 0.0)
    story.runtime.directive_answered(second.id, None, 0.0)
    story.runtime.directive_answered(second.id, None, 0.0)  # twice counts once
    story.runtime.directive_answered("d999", applied, 0.0)
    record = story.runtime.program("default", "p")
    assert record is not None
    assert record.directives == {"prefetch": {"applied": 1, "undelivered": 1}}


def test_programs_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmd_agents.runtime.advice.PROGRAMS_MAX", 3)
    story = Story()
    for number in range(5):
        story.step("s1", [LONG, str(number)], engine="a", program=f"p{number}")
    # The least recently active ones were given up, as if they had ended.
    assert len(story.issued(Release)) == 2


def test_a_failover_counts_one_call_and_its_end() -> None:
    story = Story()
    story.start()
    call = story.arrive("s1", [LONG])
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.failed(call, 1.0)
    story.runtime.dispatched(call, "b", 1.0)
    story.runtime.finished(call, Usage(30_000, 0, 10), 2.0)
    story.tell(ToolStarted(program="p", at=0, call="t1", tool="search", expected=20))
    assert [engine for engine, _ in story.issued(Retain)] == ["b"]


# --- calls that move


def test_a_call_that_goes_elsewhere_has_its_context_copied_and_what_it_left_released() -> None:
    story = Story()
    story.start()
    first = story.step("s1", [SYSTEM, LONG], engine="a")
    call = story.arrive("s2", [SYSTEM, LONG, "reply", "next"], parents=("s1",))
    story.runtime.dispatched(call, "b", 0.0)
    (issued,) = story.runtime.take_directives()
    assert (issued.engine, issued.directive) == ("b", Prefetch(digest=first.digest or b"", peer="a"))
    assert call.copy == issued.id
    # What is on its way need not be computed.
    assert story.runtime.engines["b"].queued < 1_000
    story.runtime.answering(call, 1.0)
    ((engine, release),) = story.issued(Release)
    assert (engine, release.digest) == ("a", first.digest)
    head = chain({"model": "m", "messages": [{"role": "system", "content": SYSTEM}]})[-1].digest
    assert release.keep == head


def test_where_copies_are_cheap_a_busy_engine_is_left() -> None:
    def first(kv: EngineKv | None) -> str:
        story = Story("a", "b", kv=kv)
        story.start()
        story.step("s1", [LONG], engine="a")
        for number in range(16):
            other = story.arrive("s1", ["y" * 100_000, str(number)], program=f"other-{number}")
            story.runtime.dispatched(other, "a", 0.0)
            story.runtime.answering(other, 0.0)
        return story.arrive("s2", [LONG, "reply", "next"], parents=("s1",)).ranking[0]

    assert first(None) == "a"
    assert first(KV) == "b"


def test_short_contexts_and_slow_networks_copy_nothing() -> None:
    assert KV.rates is not None
    slow = KV.model_copy(update={"rates": KV.rates.model_copy(update={"peer_s_per_token": 4e-5})})
    for text, kv in (("short", KV), (LONG, slow)):
        story = Story(kv=kv)
        story.start()
        story.step("s1", [text], engine="a")
        call = story.arrive("s2", [text, "reply", "next"], parents=("s1",))
        story.runtime.dispatched(call, "b", 0.0)
        assert call.copy is None


def test_a_copy_that_is_refused_is_no_longer_counted_on() -> None:
    story = Story()
    story.start()
    story.step("s1", [LONG], engine="a")
    call = story.arrive("s2", [LONG, "reply", "next"], parents=("s1",))
    story.runtime.dispatched(call, "b", 0.0)
    (issued,) = story.runtime.take_directives()
    story.runtime.ended_early(call, "cancelled", 0.0)
    story.runtime.directive_answered(issued.id, None, 0.0)
    assert set(story.runtime.contexts("default").resident(call.digest)) == {"a"}


def test_the_engine_that_has_computed_a_context_is_a_source_before_it_says_so() -> None:
    story = Story()
    story.start()
    other = chain({"model": "m", "messages": [{"role": "user", "content": "other"}]})[-1].digest
    for engine in ("a", "b", "c"):
        story.report(engine, other, "device", resident=True, tokens=10)
    call = story.arrive("s1", [LONG], forecast=Forecast(next=Next.FORK, fan_out=20))
    story.runtime.dispatched(call, "a", 0.0)
    story.runtime.answering(call, 1.0)
    assert {directive.peer for _, directive in story.issued(Prefetch)} == {"a"}
