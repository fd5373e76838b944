"""What an engine remembers of prompts, and of digests that share their blocks: bounded."""

from llmd_agents.cache_index import NAMES_PER_RUN_MAX
from llmd_agents.engine import EngineCore, EngineRequest
from llmd_agents.engine.prompts import BYTES_PER_BOUNDARY, Prompts
from llmd_agents.hints import Retain
from tests.engine.stories import ROOT, digest, profile, request, run, words


def test_a_prompt_is_found_by_every_digest_that_ends_in_it() -> None:
    prompts = Prompts()
    prompts.note(request("1", "ssssaaaa", boundaries=[("H", 0), ("S", 4), ("A", 8)]))

    found = prompts.find(digest("S"), None)
    assert found is not None
    assert (found.prompt, found.root) == (words("ssss"), ROOT)
    assert found.boundaries == ((digest("H"), 0), (digest("S"), 4))
    assert prompts.find(digest("H"), None) is None
    assert prompts.find(digest("A"), "other") is None


def test_a_prompt_that_is_extended_is_part_of_what_extends_it() -> None:
    prompts = Prompts(max_bytes=8 * 4 + 2 * BYTES_PER_BOUNDARY)
    prompts.note(request("1", "ssss", boundaries=[("S", 4)]))
    prompts.note(request("2", "ssssaaaa", boundaries=[("S", 4), ("A", 8)]))

    assert prompts.find(digest("S"), None) is not None
    assert prompts.find(digest("A"), None) is not None


def test_the_least_recently_sent_is_forgotten_and_what_is_too_long_is_not_kept() -> None:
    prompts = Prompts(max_bytes=2 * (4 * 4 + BYTES_PER_BOUNDARY))
    for letter in "ABCA":
        prompts.note(request(letter, letter * 4, boundaries=[(letter, 4)]))
    prompts.note(request("long", "l" * 500, boundaries=[("L", 500)]))
    prompts.note(request("plain", "p" * 4))

    assert [letter for letter in "ABCL" if prompts.find(digest(letter), None)] == ["A", "C"]


def test_endless_short_messages_after_one_prefix_are_forgotten() -> None:
    core = EngineCore(profile(num_blocks=100))
    for index in range(NAMES_PER_RUN_MAX + 50):
        name = index.to_bytes(16, "big")
        boundaries = ((digest("S"), 4), (name, 5))
        run(core, EngineRequest(str(index), words("ssss" + chr(256 + index)), b"done", ROOT, boundaries))

    known = {change.digest for change in core.resident()}
    assert len(known) == NAMES_PER_RUN_MAX
    assert digest("S") in known
    assert index.to_bytes(16, "big") in known
    answer = core.direct("a", Retain(digest=bytes(16), after=1.0, expires=1.0), 0.0)
    assert getattr(answer, "outcome", None) == "rejected"
