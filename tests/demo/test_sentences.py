"""The sentence under each program says what was measured, good or bad."""

from typing import Any

from llmd_agents.demo.results import Row
from llmd_agents.demo.sentences import sentence
from llmd_agents.demo.trial import Outcome


def outcome(completion_s: float, recomputed: int, stall: float = 0.0, **more: Any) -> Outcome:
    values: dict[str, Any] = {"calls": 10, "modelled_s": completion_s * 0.8, **more}
    return Outcome(completion_s, 400_000, 300_000, recomputed, stall, **values)


def row(without: Outcome, hinted: Outcome, prefix_aware: Outcome | None = None) -> Row:
    worst = outcome(1000, 100_000)
    arms = {
        "round_robin": worst,
        "prefix_aware": prefix_aware or worst,
        "strongest_unhinted": without,
        "hinted": hinted,
    }
    return Row("x", 2.0, {arm: {1: found, 2: found} for arm, found in arms.items()})


def counts(applied: int = 0, rejected: int = 0) -> dict[str, int]:
    return {"applied": applied, "clipped": 0, "rejected": rejected, "unsupported": 0}


def test_sooner() -> None:
    hinted = outcome(
        80, 1000, 2.0, directives={"prefetch": counts(2), "retain": counts(1)}, copies=(2, 60_000)
    )
    assert sentence(row(outcome(100, 61_000, 12.0), hinted)) == (
        "done 20% sooner with hints than in the strongest arm without, sooner in 2 of 2 runs. Context was "
        "copied from engine to engine 2 times (60,000 tokens); engines heard once when context will be "
        "needed again. 60,000 tokens fewer were computed again; finished branches waited 2.0 s for the last "
        "ones instead of 12.0 s; its calls spent 64 s at the engines instead of 80 s: less was computed "
        "again for others, and long prompts waited while its branches ran."
    )


def test_later_says_why() -> None:
    hinted = outcome(110, 38_000, 26.0, directives={"prefetch": counts(1, rejected=2)}, copies=(1, 30_000))
    said = sentence(row(outcome(100, 0), hinted))
    assert said.startswith(
        "done 10% later with hints than in the strongest arm without, sooner in 0 of 2 runs."
    )
    assert "without hints nothing was computed again either" in said.lower()
    assert "could not make, or not make whole, 2 of the copies" in said


def test_no_sooner_and_nothing_done() -> None:
    said = sentence(row(outcome(100, 5_000), outcome(100.5, 7_000)))
    assert said.startswith("done no sooner with hints")
    assert "Nothing followed from its hints. They saved no work: 7,000 tokens" in said


def test_work_saved_and_time_lost() -> None:
    said = sentence(row(outcome(100, 9_000), outcome(120, 7_000)))
    assert "They saved 2,000 tokens of work, but its calls spent 96 s at the engines" in said


def test_sooner_for_no_reason_that_is_counted() -> None:
    said = sentence(row(outcome(100, 0), outcome(90, 0, modelled_s=99)))
    assert "Nothing that is counted here explains it: it may be chance." in said


def test_an_arm_that_did_better_is_named() -> None:
    without, hinted = outcome(100, 9_000), outcome(90, 7_000, background_step_s=17.0)
    said = sentence(row(without, hinted, outcome(70, 0, background_step_s=43.2)))
    assert said.endswith(
        "Sooner still was prefix-aware without hints, with 70.0 s; the other programs' calls took 43.2 s "
        "there, and 17.0 s with hints."
    )
