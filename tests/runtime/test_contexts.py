from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import Hints, Program, ResidencyBatch, ResidencyChange, Segment, SegmentType, Step
from llmd_agents.runtime import Contexts

TENANT = "default"


def digest(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def segments(names: str, size: int = 100) -> list[Segment]:
    return [
        Segment(type=SegmentType.CONVERSATION_TURN, digest=digest(names[: end + 1]), size=size)
        for end in range(len(names))
    ]


def batch(names: list[str], *, resident: bool = True, snapshot: bool = False) -> ResidencyBatch:
    changes = tuple(
        ResidencyChange(digest=digest(name), tokens=25 * len(name), resident=resident) for name in names
    )
    return ResidencyBatch(epoch="e", seq=0, snapshot=snapshot, changes=changes)


def held(contexts: Contexts, name: str, tenant: str = TENANT) -> dict[str, int]:
    return {engine: found.depth for engine, found in contexts.resident(tenant, digest(name)).items()}


def test_the_longest_resident_prefix_of_each_engine() -> None:
    contexts = Contexts(sole_tenant=TENANT)
    contexts.declare(TENANT, None, segments("abc"))
    contexts.declare(TENANT, digest("ab"), segments("abx")[2:])
    contexts.report("one", batch(["a", "ab", "abc"]))
    contexts.report("two", batch(["a"]))
    assert held(contexts, "abc") == {"one": 300, "two": 100}
    assert held(contexts, "abx") == {"one": 200, "two": 100}
    contexts.report("one", batch(["abc", "ab"], resident=False))
    assert held(contexts, "abc") == {"one": 100, "two": 100}
    contexts.clear("one")
    assert held(contexts, "abc") == {"two": 100}


def test_a_snapshot_replaces_what_was_known() -> None:
    contexts = Contexts(sole_tenant=TENANT)
    contexts.declare(TENANT, None, segments("abc"))
    contexts.predict(TENANT, digest("abc"), "one")
    contexts.report("one", batch(["a"], snapshot=True))
    assert held(contexts, "abc") == {"one": 100}


def test_what_engines_report_before_any_call_counts_once_one_comes() -> None:
    contexts = Contexts(sole_tenant=TENANT)
    contexts.report("one", batch(["a", "ab"], snapshot=True))
    contexts.report("one", batch(["ab"], resident=False))
    contexts.declare(TENANT, None, segments("abc"))
    assert held(contexts, "abc") == {"one": 100}
    several = Contexts(sole_tenant=None)
    several.report("one", batch(["a"], snapshot=True))
    several.declare("nosy", None, segments("abc"))
    assert held(several, "abc", "nosy") == {}


def test_predictions_hold_until_the_engine_says_otherwise() -> None:
    contexts = Contexts(sole_tenant=TENANT)
    contexts.declare(TENANT, None, segments("abc"))
    new = contexts.predict(TENANT, digest("abc"), "one")
    assert held(contexts, "abc") == {"one": 300}
    assert contexts.predict(TENANT, digest("abc"), "one") == []
    contexts.report("one", batch(["ab"]))
    contexts.retract(TENANT, new, "one")
    assert held(contexts, "abc") == {"one": 200}


def test_unknown_base_is_not_guessed() -> None:
    contexts = Contexts(sole_tenant=TENANT)
    step = Step(id="s")
    assert not contexts.knows(TENANT, Hints(program=Program(id="p"), step=step, extends=digest("x")))
    assert contexts.declare(TENANT, digest("x"), segments("xy")[1:]) is None
    assert contexts.resident(TENANT, digest("xy")) == {}


def test_no_tenant_learns_of_anothers_context() -> None:
    contexts = Contexts(sole_tenant=None)
    contexts.declare("rich", None, segments("abc"))
    contexts.predict("rich", digest("abc"), "one")
    # The other tenant guesses the digests and declares them as its own.
    contexts.declare("nosy", None, segments("abc"))
    contexts.report("one", batch(["a", "ab", "abc"]))
    assert held(contexts, "abc", "rich") == {"one": 300}
    assert held(contexts, "abc", "nosy") == {}
    contexts.predict("nosy", digest("a"), "one")
    contexts.report("one", batch(["a", "ab", "abc"]))
    assert held(contexts, "abc", "nosy") == {"one": 100}


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=60))
def test_memory_is_bounded_and_beginnings_outlive_ends(prompts: list[str]) -> None:
    contexts = Contexts(sole_tenant=TENANT, most=8)
    for prompt in prompts:
        contexts.declare(TENANT, None, segments(prompt))
        contexts.predict(TENANT, digest(prompt), "one")
        assert len(contexts) <= 8
        # What was just declared is known from end to beginning.
        assert [found.digest for found in contexts.path(TENANT, digest(prompt))] == [
            digest(prompt[:end]) for end in range(len(prompt), 0, -1)
        ]
        assert len(contexts._tenants) == len(contexts)
        assert len(contexts._held["one"]) <= len(contexts)
