"""The digest that names a prompt with its reply: told at the end, kept and given up with the prompt."""

import dataclasses

from llmd_agents.engine import EngineCore, EngineRequest
from llmd_agents.engine.prompts import Prompts
from llmd_agents.hints import DirectiveOutcome, Warm
from tests.engine.stories import digest, profile, request, run, words
from tests.engine.test_residency import resident, told
from tests.engine.test_retention import answer, push, release, retain


def turn(name: str, prompt: str, output: str, boundaries: list[tuple[str, int]], reply: str) -> EngineRequest:
    return dataclasses.replace(request(name, prompt, output, boundaries=boundaries), reply=digest(reply))


FIRST = turn("first", "abcd", "efghi", [("A", 4)], "R")
"""Five tokens of reply, of which the last is never computed: R ends with the second block."""


def test_it_is_told_when_the_request_has_finished() -> None:
    core = EngineCore(profile())
    outputs = run(core, FIRST)
    assert told(outputs) == ["+A4", "+R8"]
    assert told(outputs[:-1]) == ["+A4"]


def test_the_next_turn_names_the_same_blocks() -> None:
    core = EngineCore(profile())
    run(core, FIRST)
    second = turn("second", "abcdefghijkl", "mnopq", [("R", 8), ("B", 12)], "S")
    assert told(run(core, second)) == ["+B12", "+S16"]


def test_a_reply_that_fills_no_block_goes_with_its_prompt() -> None:
    core = EngineCore(profile())
    assert told(run(core, turn("a", "abcd", "ef", [("A", 4)], "R"))) == ["+A4", "+R5"]
    assert told(run(core, turn("b", "xy", "z", [], "T"))) == []
    assert release(core, "A") == answer("applied", 4)
    push(core, 8, now=20.0)
    assert resident(core) == set()


def test_an_aborted_request_has_no_reply() -> None:
    core = EngineCore(profile())
    core.add(FIRST, 0.0)
    core.step(0.0)
    core.abort("first")
    assert resident(core) == {"A"}


def two() -> EngineCore:
    """A context of two blocks with its reply, and another used later, in a cache of six."""
    core = EngineCore(profile(num_blocks=7), retention_budget=1.0)
    run(core, FIRST, now=0.0)
    run(core, request("other", "qrstuvwx", boundaries=[("C", 8)]), now=100.0)
    return core


def test_without_directives_it_goes_as_it_was_used() -> None:
    core = two()
    push(core, 1)
    assert resident(core) == {"A", "C"}


def test_an_estimate_for_the_prompt_keeps_the_reply() -> None:
    core = two()
    assert retain(core, "A", after=5.0, now=299.0) == answer("applied", 4)
    push(core, 2)
    assert resident(core) == {"A", "R"}


def test_a_prompt_that_is_dead_takes_its_reply_along() -> None:
    core = two()
    run(core, FIRST, now=200.0)  # C is the least recently used now
    assert release(core, "A") == answer("applied", 4)
    push(core, 2)
    assert resident(core) == {"C"}


def test_a_turn_that_repeats_the_reply_lets_all_die() -> None:
    core = EngineCore(profile(num_blocks=9), retention_budget=1.0)
    run(core, request("other", "qrstuvwx", boundaries=[("C", 8)]), now=0.0)
    run(core, FIRST, now=10.0)
    repeated = turn("second", "abcdefghi]jk", "lmnop", [("A", 4), ("a", 10), ("B", 12)], "S")
    run(core, repeated, now=20.0)
    assert resident(core) == {"A", "R", "a", "B", "S", "C"}
    assert release(core, "B") == answer("applied", 12)
    push(core, 4)
    assert resident(core) == {"C"}


def test_a_reply_that_another_request_uses_lives() -> None:
    core = EngineCore(profile(), retention_budget=1.0)
    run(core, FIRST, now=0.0)
    run(core, request("second", "abcdefghijkl", boundaries=[("R", 8), ("B", 12)]), now=10.0)
    assert release(core, "A") == answer("clipped", 0, "other context extends it")
    assert release(core, "B") == answer("applied", 12)


def test_it_can_be_computed_again() -> None:
    core = EngineCore(profile())
    run(core, FIRST)
    core.reset_prefix_cache()
    outcome = core.direct("a", Warm(digest=digest("R")), 10.0)
    assert outcome == DirectiveOutcome(action_id="a", outcome="applied", tokens=8)
    assert told(run(core, now=10.0)) == ["+A4", "+R8"]


def test_replies_count_in_what_is_remembered_of_prompts() -> None:
    size = len(FIRST.prompt + FIRST.output) + 2 * 128
    assert Prompts(max_bytes=size - 1).find(digest("A"), None) is None
    for limit, found in ((size - 1, False), (size, True)):
        prompts = Prompts(max_bytes=limit)
        prompts.note(FIRST)
        assert (prompts.find(digest("A"), None) is not None) is found
    whole = prompts.find(digest("R"), None)
    assert whole is not None
    assert (whole.prompt, whole.boundaries) == (words("abcdefgh"), ((digest("A"), 4), (digest("R"), 8)))
