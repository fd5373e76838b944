"""A log of a run with faults, fed to a fresh runtime, gives the same decisions."""

import json
import random

import pytest

from llmd_agents.hints import (
    BranchEnded,
    DirectiveOutcome,
    Event,
    Forecast,
    ForkDeclared,
    ForkPosition,
    Next,
    ProgramFinished,
    Rejection,
    ToolFinished,
    ToolStarted,
    chain,
)
from llmd_agents.runtime import Arrival, BadJournal, Call, EngineLoad, Journal, Mode, Usage, redecide
from tests.runtime.test_advice import KV, LONG, Story


def faulted_run(seed: int, *, tenants: bool = False) -> list[bytes]:
    """Returns the log of programs that fork, wait, fail and end, on engines that fail and come back."""
    lines: list[bytes] = []
    draw = random.Random(seed)
    scopes = {"default": "s1", "other": "s2"} if tenants else None
    story = Story(journal=Journal(lines.append), tenants=scopes)
    runtime = story.runtime
    under_way: list[Call] = []
    for turn in range(1500):
        story.at += draw.expovariate(1.0)
        program = f"p{draw.randrange(4)}"
        branch = draw.choice(["main", "main", "f1.0", "f1.1"])
        match draw.randrange(12):
            case 0 | 1 | 2 | 3:
                story.start(program)
                position = ForkPosition(id="f1", index=int(branch[-1]), width=2) if branch != "main" else None
                forecast = draw.choice([None, Forecast(next=Next.FORK, fan_out=8), Forecast(next=Next.HUMAN)])
                texts = [LONG, program, *(f"turn {n}" for n in range(turn % 5))]
                call = story.arrive(
                    f"s{turn}", texts, program=program, branch=branch, fork=position, forecast=forecast
                )
                runtime.dispatched(call, call.ranking[0], story.at)
                under_way.append(call)
            case 4 | 5 if under_way:
                call = under_way.pop(0)
                runtime.answering(call, story.at)
                runtime.finished(call, Usage(30_000, draw.choice([None, 0, 20_000]), 50), story.at)
            case 6 if under_way:
                call = under_way.pop()
                runtime.failed(call, story.at)
                runtime.dispatched(call, call.ranking[-1], story.at)
                runtime.ended_early(call, "cancelled", story.at)
            case 7:
                started = ToolStarted(
                    program=program, at=0, call=f"t{turn}", tool="search", expected=5.0, branch=branch
                )
                runtime.observe("default", started, story.at)
                finished = ToolFinished(program=program, at=0, call=f"t{turn}", tool="search")
                runtime.observe("default", finished, story.at)
            case 8:
                events: list[Event] = [
                    ForkDeclared(program=program, at=0, fork="f1", width=2),
                    BranchEnded(program=program, at=0, branch=branch),
                    ProgramFinished(program=program, at=0),
                ]
                runtime.observe("default", draw.choice(events), story.at)
            case 9:
                engine = draw.choice("abc")
                runtime.engine_down(engine, story.at)
                runtime.engine_up(engine, story.at)
                runtime.engine_kv(engine, KV if draw.random() < 0.9 else None, story.at)
                load = EngineLoad(draw.randrange(9), draw.randrange(3), None, draw.randrange(4), 2.0)
                runtime.engine_load(draw.choice("abc"), load, story.at)
            case 10:
                for issued in runtime.take_directives():
                    result = draw.choice(["applied", "clipped", "rejected", "unsupported"])
                    outcome = DirectiveOutcome(action_id=issued.id, outcome=result)
                    runtime.directive_answered(issued.id, draw.choice([outcome, None]), story.at)
            case _:
                runtime.tick(story.at)
                plain = chain({"model": "m", "messages": [{"role": "user", "content": f"plain {turn}"}]})
                runtime.continued("default", bytes([turn % 256]) * 16, plain[-1].digest, turn, story.at)
                runtime.arrive(Arrival("default", 100, story.at, links=plain))
    runtime.set_mode(Mode.OBSERVE, story.at)
    return lines


@pytest.mark.parametrize("seed", range(5))
def test_the_same_inputs_give_the_same_decisions(seed: int) -> None:
    lines = faulted_run(seed, tenants=seed % 2 == 0)
    result = redecide(lines)
    assert result.first_difference is None
    assert result.directives >= 100
    assert result.rankings > 50


def test_a_decision_that_differs_is_shown() -> None:
    lines = faulted_run(1)
    at = next(index for index, line in enumerate(lines) if json.loads(line)["is"] == "ranking")
    changed = json.loads(lines[at])
    changed["ranking"] = list(reversed(changed["ranking"]))
    lines[at] = json.dumps(changed, separators=(",", ":")).encode()
    difference = redecide(lines).first_difference
    assert difference is not None
    assert difference.startswith(f"line {at + 1}: ")
    assert "decided now" in difference


def test_a_log_with_a_gap_or_garbage_is_refused() -> None:
    lines = faulted_run(1)
    for broken, number in (
        ([b"not json"], 1),
        (lines[1:], 1),
        ([*lines[:3], b'{"is":"dropped","count":4}', *lines[3:]], 4),
        ([*lines[:3], b'{"is":"finished","call":99,"usage":null,"at":1}'], 4),
        ([lines[0].replace(b'"version":1', b'"version":9')], 1),
    ):
        with pytest.raises(BadJournal, match=f"line {number}"):
            redecide(broken)


def test_it_holds_no_contents_and_nothing_that_the_contract_does_not_know() -> None:
    lines: list[bytes] = []
    story = Story(journal=Journal(lines.append))
    secret = "the-secret-plan " * 100
    story.start()
    story.step("s1", [secret])
    event = ProgramFinished.model_validate({"program": "p", "at": 0, "note": "the-secret-plan"})
    story.tell(event)
    assert lines
    assert not any(b"the-secret-plan" in line for line in lines)


def test_rejected_hints_are_part_of_it() -> None:
    lines: list[bytes] = []
    story = Story(journal=Journal(lines.append))
    refused = story.runtime.observe("default", ProgramFinished(program="unknown", at=0), 0.0)
    assert isinstance(refused, Rejection)
    assert redecide(lines).first_difference is None


def test_an_engine_that_falls_silent_is_part_of_it() -> None:
    lines: list[bytes] = []
    story = Story("a", "b", journal=Journal(lines.append))
    story.start()
    digest = chain({"model": "m", "messages": [{"role": "user", "content": LONG}]})[-1].digest
    story.report("a", digest, "device", resident=True)
    homes = [story.arrive("s1", [LONG]).ranking[0]]
    story.runtime.engine_silent("a", story.at)
    story.runtime.engine_silent("a", story.at)
    story.runtime.engine_silent("b", story.at)
    assert sum(b'"engine_silent"' in line for line in lines) == 1
    assert story.runtime.contexts("default").resident(digest) == {}
    homes += [story.arrive(f"s{n}", [LONG], program=f"p{n}").ranking[0] for n in range(2, 12)]
    assert homes[0] == "a"
    assert set(homes) == {"a", "b"}
    assert redecide(lines).first_difference is None


def test_runs_that_follow_each_other_are_played_one_by_one() -> None:
    result = redecide([*faulted_run(1), *faulted_run(2)])
    assert result.first_difference is None


def test_a_decision_that_is_missing_is_shown() -> None:
    lines = faulted_run(1)
    at = max(index for index, line in enumerate(lines) if json.loads(line)["is"] == "ranking")
    assert redecide([*lines[:at], *lines[at + 1 :]]).first_difference is not None
