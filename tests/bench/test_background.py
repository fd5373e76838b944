"""The background's sessions: drawn from a seed, whatever serves them."""

from statistics import fmean, median

from llmd_agents.bench.background import draw_session
from llmd_agents.demo.scenario import read_scenario

BACKGROUND = read_scenario().background


def test_the_same_place_draws_the_same_session() -> None:
    assert draw_session(BACKGROUND, 1, 2, 3, 4) == draw_session(BACKGROUND, 1, 2, 3, 4)
    others = [draw_session(BACKGROUND, *key, 4).turns for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert len(set(others)) == 4


def test_people_pause_after_every_task() -> None:
    session = draw_session(BACKGROUND, 1, 0, 0, 3)
    assert [turn.tool is None for turn in session.turns[:7]] == [False, False, True] * 2 + [False]
    # Who pauses when takes nothing from the draws.
    other = draw_session(BACKGROUND, 1, 0, 0, 100)
    assert [turn.tokens for turn in other.turns] == [turn.tokens for turn in session.turns]


def test_sessions_are_as_the_scenario_says() -> None:
    sessions = [draw_session(BACKGROUND, 7, place, 0, 1000) for place in range(1000)]
    contexts = [length for session in sessions for length in session.contexts(BACKGROUND)]
    pauses = [turn.pause_s for session in sessions for turn in session.turns]
    assert abs(fmean(contexts) / 40_000 - 1) < 0.03
    assert max(contexts) < 131_072
    assert 8 < median(pauses) < 10.5
    assert {session.workflow for session in sessions} == {0, 1, 2, 3}


def test_compaction_leaves_the_head_and_a_summary() -> None:
    drawn = (draw_session(BACKGROUND, 1, place, 0, 5) for place in range(100))
    session = next(one for one in drawn if any(turn.compacts for turn in one.turns))
    at = next(index for index, turn in enumerate(session.turns) if turn.compacts)
    contexts = session.contexts(BACKGROUND)
    assert contexts[at] < contexts[at - 1]
    assert contexts[at] < BACKGROUND.head_tokens[session.workflow] + 5_000 + 400 + 10
