from collections.abc import Sequence
from typing import Any

import pytest

from llmd_agents.hints import (
    DEFAULT_PRIORITY,
    Decoded,
    ForkPosition,
    Hints,
    Program,
    ProgramFinished,
    Rejection,
    ResidencyBatch,
    ResidencyChange,
    Step,
    chain,
    segments_of,
)
from llmd_agents.runtime import Arrival, Call, Mode, Runtime, Usage, program_view

TENANT = "default"


def body(*texts: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text} for text in texts]}


def hinted(
    step: str, texts: Sequence[str], *, known: int = 0, fork: ForkPosition | None = None, branch: str = "main"
) -> Decoded:
    links = chain(body(*texts))
    return Decoded(
        Hints(
            program=Program(id="p"),
            step=Step(id=step, branch=branch, fork=fork),
            extends=links[known].digest if known else None,
            segments=segments_of(links[known + 1 if known else 0 :]),
        )
    )


def arrive(runtime: Runtime, decoded: Decoded, at: float = 0.0) -> Call:
    return runtime.arrive(Arrival(TENANT, 10, at, decoded=decoded))


LONG = "x" * 100_000


def test_a_branch_stays_where_its_context_is() -> None:
    runtime = Runtime(["a", "b", "c"])
    call = arrive(runtime, hinted("s1", [LONG]))
    engine = call.ranking[1]
    runtime.dispatched(call, engine, 1.0)
    runtime.finished(call, Usage(25_000, 0, 10), 1.0)
    following = arrive(runtime, hinted("s2", [LONG, "reply", "next"], known=1))
    assert following.ranking[0] == engine
    assert following.ack is not None
    assert following.ack.accepted == ("program", "step", "segments")
    assert not following.ack.resync


def test_hinted_and_plain_calls_share_residency() -> None:
    runtime = Runtime(["a", "b", "c"])
    links = chain(body(LONG))
    plain = runtime.arrive(Arrival(TENANT, 10, 0.0, links=links))
    assert plain.ack is None
    engine = plain.ranking[2]
    runtime.dispatched(plain, engine, 1.0)
    runtime.finished(plain, None, 1.0)
    assert arrive(runtime, hinted("s1", [LONG, "more"])).ranking[0] == engine


def test_an_unknown_base_asks_for_a_resync_and_the_step_still_counts() -> None:
    runtime = Runtime(["a"])
    decoded = hinted("s1", [LONG, "more"], known=1)
    assert runtime.needs_chain(TENANT, decoded)
    call = arrive(runtime, decoded)
    assert call.ranking == ["a"]
    assert call.ack is not None
    assert call.ack.resync
    assert call.ack.accepted == ("program", "step")
    # With the body's chain at hand nothing needs to be asked for.
    read = runtime.arrive(Arrival(TENANT, 10, 0.0, decoded=decoded, links=chain(body(LONG, "more"))))
    assert read.ack is not None
    assert not read.ack.resync


def test_rejections_and_clippings_reach_the_ack() -> None:
    runtime = Runtime(["a"])
    good = hinted("s1", ["x"]).hints
    assert good is not None
    cut = good.model_copy(update={"cut": ("segments",)})
    call = arrive(runtime, Decoded(cut, (Rejection("fork", "bad"),), ("mood",)))
    assert call.ack is not None
    assert call.ack.accepted == ("program", "step")
    assert [item.hint for item in call.ack.clipped] == ["segments"]
    assert call.ack.rejected == (Rejection("fork", "bad"),)
    assert call.ack.ignored == ("mood",)


def test_a_forks_first_steps_are_spread_and_later_ones_follow_their_context() -> None:
    runtime = Runtime(["a", "b", "c"])
    root = arrive(runtime, hinted("s0", [LONG]))
    runtime.dispatched(root, "a", 1.0)
    runtime.finished(root, None, 1.0)
    chosen = []
    for index in range(6):
        position = ForkPosition(id="f1", index=index, width=6)
        first = arrive(
            runtime, hinted(f"s1{index}", [LONG, f"c{index}" * 20_000], fork=position, branch=f"f1.{index}")
        )
        runtime.dispatched(first, first.ranking[0], 1.0)
        runtime.finished(first, None, 2.0)
        chosen.append(first.ranking[0])
        second = arrive(
            runtime,
            hinted(f"s2{index}", [LONG, f"c{index}" * 20_000, "z"], fork=position, branch=f"f1.{index}"),
        )
        assert second.ranking[0] == chosen[-1]
    assert sorted(chosen) == ["a", "a", "b", "b", "c", "c"]


def test_engines_that_are_down_come_last_and_have_lost_their_cache() -> None:
    runtime = Runtime(["a", "b"])
    call = arrive(runtime, hinted("s1", [LONG]))
    runtime.dispatched(call, "a", 1.0)
    runtime.finished(call, None, 1.0)
    runtime.engine_down("a", 2.0)
    assert arrive(runtime, hinted("s2", [LONG, "y"])).ranking == ["b", "a"]
    runtime.engine_up("a", 3.0)
    assert runtime.contexts(TENANT).resident(call.digest) == {}


def test_a_failed_call_takes_its_prediction_and_its_load_back() -> None:
    runtime = Runtime(["a", "b"])
    call = arrive(runtime, hinted("s1", [LONG]))
    runtime.dispatched(call, "a", 1.0)
    assert runtime.engines["a"].running == 1
    assert runtime.engines["a"].queued > 100_000
    runtime.failed(call, 1.0)
    runtime.ended_early(call, "cancelled", 1.0)
    state = runtime.engines["a"]
    assert (state.running, state.queued, state.failed) == (0, 0, 1)
    assert runtime.contexts(TENANT).resident(call.digest) == {}
    runtime.dispatched(call, "b", 1.0)
    runtime.finished(call, Usage(25_000, 7, 10), 2.0)
    assert (runtime.engines["b"].running, runtime.engines["b"].prompt_tokens) == (0, 25_000)


def batch(seq: int, call: Call, *, epoch: str = "e", snapshot: bool = False) -> ResidencyBatch:
    assert call.digest is not None
    change = ResidencyChange(digest=call.digest, tokens=100, resident=True)
    return ResidencyBatch(epoch=epoch, seq=seq, snapshot=snapshot, changes=(change,))


def test_a_gap_or_another_epoch_voids_what_was_known() -> None:
    runtime = Runtime(["a"])
    call = arrive(runtime, hinted("s1", [LONG]))
    assert runtime.report("a", batch(4, call, snapshot=True), 1.0)
    assert runtime.report("a", batch(5, call), 1.0)
    assert list(runtime.contexts(TENANT).resident(call.digest)) == ["a"]
    assert not runtime.report("a", batch(7, call), 1.0)
    assert runtime.contexts(TENANT).resident(call.digest) == {}
    assert runtime.report("a", batch(9, call, snapshot=True), 1.0)
    assert not runtime.report("a", batch(10, call, epoch="restarted"), 1.0)


def test_same_calls_same_decisions() -> None:
    def run() -> list[list[str]]:
        runtime = Runtime(["a", "b", "c"])
        rankings = []
        for number in range(50):
            call = arrive(runtime, hinted(f"s{number}", ["x" * 5_000 * (number % 7), "y"]), float(number))
            rankings.append(call.ranking)
            runtime.dispatched(call, call.ranking[0], 1.0)
            if number % 3:
                runtime.finished(call, None, float(number))
            elif number % 2:
                runtime.failed(call, float(number))
        return rankings

    assert run() == run()


def test_the_view_shows_graph_and_residency() -> None:
    runtime = Runtime(["a", "b"])
    call = arrive(runtime, hinted("s1", ["x" * 40]), at=5.0)
    runtime.dispatched(call, "b", 1.0)
    runtime.finished(call, Usage(12, 4, 3), 6.0)
    assert runtime.report("b", batch(0, call, snapshot=True), 1.0)
    assert runtime.observe(TENANT, ProgramFinished(program="p", at=1), 7.0) is None
    record = runtime.program(TENANT, "p")
    assert record is not None
    view = program_view(runtime, TENANT, record)
    (step,) = view["steps"]
    assert (step["engine"], step["prompt_tokens"], step["cached_tokens"]) == ("b", 12, 4)
    (branch,) = view["branches"]
    assert branch["residency"]["b"]["tiers"] == {"device": 100}
    assert branch["residency"]["b"]["certain"] is True
    assert (view["status"], view["started_at"], view["seen_at"]) == ("ok", 5.0, 7.0)


def test_refused_events_are_named() -> None:
    runtime = Runtime(["a"])
    refused = runtime.observe(TENANT, ProgramFinished(program="q", at=1), 1.0)
    assert refused == Rejection("program_finished", "unknown program")


def run_call(runtime: Runtime, texts: Sequence[str], engine: str, usage: Usage | None) -> Call:
    call = runtime.arrive(Arrival(TENANT, 10, 0.0, links=chain(body(*texts))))
    runtime.dispatched(call, engine, 1.0)
    runtime.finished(call, usage, 2.0)
    return call


def test_cached_tokens_correct_what_was_believed_of_a_silent_engine() -> None:
    runtime = Runtime(["a", "b"])
    oldest = run_call(runtime, ["o" * 40_000], "a", Usage(10_000, 0, 1))
    older = run_call(runtime, ["x" * 40_000], "a", Usage(10_000, 0, 1))
    newer = run_call(runtime, ["y" * 40_000], "a", Usage(10_000, 0, 1))
    # The engine turns out to have lost `older`, so what was used before it is gone as well.
    run_call(runtime, ["x" * 40_000, "more"], "a", Usage(10_002, 0, 1))
    contexts = runtime.contexts(TENANT)
    assert contexts.resident(oldest.digest) == {}
    assert list(contexts.resident(older.digest)) == ["a"]
    assert list(contexts.resident(newer.digest)) == ["a"]


def test_hits_that_fall_short_by_a_block_correct_nothing() -> None:
    runtime = Runtime(["a"])
    older = run_call(runtime, ["o" * 40_000], "a", Usage(10_000, 0, 1))
    run_call(runtime, ["x" * 40_000], "a", Usage(10_000, 0, 1))
    run_call(runtime, ["x" * 40_000, "more"], "a", Usage(10_010, 9_920, 1))
    assert list(runtime.contexts(TENANT).resident(older.digest)) == ["a"]


def test_a_call_given_up_after_its_answer_began_has_left_its_context() -> None:
    runtime = Runtime(["a"])
    call = arrive(runtime, hinted("s1", [LONG]))
    runtime.dispatched(call, "a", 1.0)
    assert runtime.engines["a"].queued > 0
    runtime.answering(call, 2.0)
    assert runtime.engines["a"].queued == 0
    runtime.ended_early(call, "cancelled", 3.0)
    assert list(runtime.contexts(TENANT).resident(call.digest)) == ["a"]
    assert runtime.engines["a"].running == 0


def test_tenants_share_nothing() -> None:
    runtime = Runtime(["a"], {"red": "r", "blue": "b"})
    red = runtime.arrive(Arrival("red", 10, 0.0, decoded=hinted("s1", [LONG])))
    blue = runtime.arrive(Arrival("blue", 10, 0.0, decoded=hinted("s1", [LONG])))
    assert red.digest is not None
    change = ResidencyChange(digest=red.digest, tokens=100, resident=True, scope="r")
    assert runtime.report("a", ResidencyBatch(epoch="e", seq=0, snapshot=True, changes=(change,)), 1.0)
    assert list(runtime.contexts("red").resident(red.digest)) == ["a"]
    assert runtime.contexts("blue").resident(blue.digest) == {}
    refused = runtime.observe("blue", ProgramFinished(program="p", at=1), 1.0)
    assert refused is None
    outcomes = [runtime.program(tenant, "p") for tenant in ("red", "blue")]
    assert [record.outcome for record in outcomes if record] == [None, "ok"]


@pytest.mark.parametrize(("declared", "known"), [(90, 90), (0, 0), (DEFAULT_PRIORITY, None)])
def test_a_call_knows_the_priority_that_its_program_declared(declared: int, known: int | None) -> None:
    runtime = Runtime(["a"])
    hints = Hints(program=Program(id="p", priority=declared), step=Step(id="s1"))
    assert runtime.arrive(Arrival("default", 10, 0.0, decoded=Decoded(hints))).priority == known
    assert runtime.arrive(Arrival("default", 10, 0.0)).priority is None
    runtime.set_mode(Mode.OFF, 0.0)
    assert runtime.arrive(Arrival("default", 10, 0.0, decoded=Decoded(hints))).priority is None
