from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import Hints, Program, ResidencyBatch, ResidencyChange, Segment, SegmentType, Step
from llmd_agents.runtime import Contexts


def digest(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def segments(names: str, size: int = 100) -> list[Segment]:
    return [
        Segment(type=SegmentType.CONVERSATION_TURN, digest=digest(names[: end + 1]), size=size)
        for end in range(len(names))
    ]


def batch(
    names: list[str],
    *,
    resident: bool = True,
    snapshot: bool = False,
    tier: str = "device",
    scope: str | None = None,
) -> ResidencyBatch:
    changes = tuple(
        ResidencyChange(digest=digest(name), tokens=25 * len(name), resident=resident, tier=tier, scope=scope)
        for name in names
    )
    return ResidencyBatch(epoch="e", seq=0, snapshot=snapshot, changes=changes)


def held(contexts: Contexts, name: str) -> dict[str, int]:
    return {engine: found.depth for engine, found in contexts.resident(digest(name)).items()}


def test_the_longest_resident_prefix_of_each_engine() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    contexts.declare(digest("ab"), segments("abx")[2:])
    contexts.report("one", batch(["a", "ab", "abc"]), None)
    contexts.report("two", batch(["a"]), None)
    assert held(contexts, "abc") == {"one": 300, "two": 100}
    assert held(contexts, "abx") == {"one": 200, "two": 100}
    contexts.report("one", batch(["abc", "ab"], resident=False), None)
    assert held(contexts, "abc") == {"one": 100, "two": 100}
    contexts.clear("one")
    assert held(contexts, "abc") == {"two": 100}


def test_what_extends_a_known_context_is_as_deep_as_that() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    # Lineage: named after the first part, it stands for all that was said.
    lineage = Segment(type=SegmentType.CONVERSATION_TURN, digest=digest("L"), size=50)
    contexts.declare(digest("abc"), [lineage])
    more = Segment(type=SegmentType.CONVERSATION_TURN, digest=digest("Ld"), size=10)
    small = lineage.model_copy(update={"size": 3})
    assert contexts.declare(None, [*segments("a"), small, more]) == digest("Ld")
    path = [(context.digest, context.depth) for context in contexts.path(digest("Ld"))]
    assert path == [
        (digest("Ld"), 360),
        (digest("L"), 350),
        (digest("abc"), 300),
        (digest("ab"), 200),
        (digest("a"), 100),
    ]


def test_a_snapshot_replaces_what_was_known() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    contexts.predict(digest("abc"), "one")
    contexts.report("one", batch(["a"], snapshot=True), None)
    assert held(contexts, "abc") == {"one": 100}


def test_what_engines_report_before_any_call_counts_once_one_comes() -> None:
    contexts = Contexts()
    contexts.report("one", batch(["a", "ab"], snapshot=True), None)
    contexts.report("one", batch(["ab"], resident=False), None)
    contexts.declare(None, segments("abc"))
    assert held(contexts, "abc") == {"one": 100}


def test_predictions_hold_until_the_engine_says_otherwise() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    new = contexts.predict(digest("abc"), "one")
    assert held(contexts, "abc") == {"one": 300}
    assert contexts.predict(digest("abc"), "one") == []
    contexts.report("one", batch(["ab"]), None)
    contexts.retract(new, "one")
    assert held(contexts, "abc") == {"one": 200}


def test_unknown_base_is_not_guessed() -> None:
    contexts = Contexts()
    step = Step(id="s")
    assert not contexts.knows(Hints(program=Program(id="p"), step=step, extends=digest("x")))
    assert contexts.declare(digest("x"), segments("xy")[1:]) is None
    assert contexts.resident(digest("xy")) == {}


def test_reports_count_only_in_their_own_scope() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    contexts.report("one", batch(["a", "ab"], scope="mine"), "mine")
    contexts.report("one", batch(["abc"], scope="others"), "mine")
    contexts.report("one", batch(["ab"], scope=None, resident=False), "mine")
    assert held(contexts, "abc") == {"one": 200}
    contexts.report("one", batch(["abc"], scope="others"), None)  # as where there is but one tenant
    assert held(contexts, "abc") == {"one": 300}


def test_a_context_may_be_in_several_tiers() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("a"))
    contexts.report("one", batch(["a"]), None)
    contexts.report("one", batch(["a"], tier="host"), None)
    contexts.report("one", batch(["a"], resident=False), None)
    (found,) = contexts.resident(digest("a")).values()
    assert found.holders["one"].tiers == {"host": 25}
    contexts.report("one", batch(["a"], tier="host", resident=False), None)
    contexts.report("one", batch(["a"], tier="a later kind"), None)
    assert list(held(contexts, "a")) == ["one"]


def test_what_is_answered_is_certain_whoever_predicted_it() -> None:
    contexts = Contexts()
    contexts.declare(None, segments("abc"))
    first = contexts.predict(digest("abc"), "one")
    assert contexts.predict(digest("abc"), "one") == []
    contexts.settle(digest("ab"), "one")
    contexts.retract(first, "one")
    assert held(contexts, "abc") == {"one": 200}


def test_what_was_used_before_an_evicted_context_went_before_it() -> None:
    contexts = Contexts()
    for prompt in ("old", "mid", "new"):
        contexts.declare(None, segments(prompt))
        contexts.settle(digest(prompt), "one")
    (deepest, *_), new = contexts.sent(contexts.path(digest("mid")), "one")
    assert new == []
    contexts.give_up("one", deepest[1])
    assert held(contexts, "old") == {}
    assert held(contexts, "mid") == {"one": 200}  # the beginning of a prompt outlives its end
    assert held(contexts, "new") == {"one": 300}


def test_a_finer_declaration_replaces_a_coarser_one() -> None:
    contexts = Contexts()
    merged = segments("abcd")[3].model_copy(update={"size": 400, "merged": 4})
    contexts.declare(None, [merged])
    contexts.declare(None, segments("abcd"))
    assert len(contexts.path(digest("abcd"))) == 4


def test_forged_digests_and_sizes_make_no_circle() -> None:
    contexts = Contexts(most=4)

    def forge(extends: str | None, names: str, size: int) -> None:
        made = [Segment(type=SegmentType.CONVERSATION_TURN, digest=digest(name), size=size) for name in names]
        contexts.declare(digest(extends) if extends else None, made)

    for size in (0, 7):
        forge(None, "Z", size)
        forge(None, "D", size)
        forge("D", "CZ", size)
        forge(None, "pqrs", size)
        forge("C", "D", size)
        forge("D", "C", size)
        forge(None, "CDCD", size)
        for name in "CDZpqrs":
            assert len(contexts.path(digest(name))) <= 4


@given(
    st.lists(
        st.tuples(
            st.text("ab", min_size=1, max_size=4),
            st.sampled_from(["one", "two", "three"]),
            st.sampled_from(["sent", "settle", "device", "host", "gone", "clear"]),
        ),
        max_size=30,
    )
)
def test_one_walk_finds_the_longest_prefix_of_each_engine(happened: list[tuple[str, str, str]]) -> None:
    contexts = Contexts()
    for name, engine, what in happened:
        contexts.declare(None, segments(name))
        match what:
            case "sent":
                contexts.predict(digest(name), engine)
            case "settle":
                contexts.settle(digest(name), engine)
            case "gone":
                contexts.report(engine, batch([name], resident=False), None)
            case "clear":
                contexts.clear(engine)
            case tier:
                contexts.report(engine, batch([name], tier=tier), None)
    for name in {name for name, _, _ in happened}:
        found = contexts.holdings(digest(name))
        assert [context.digest for context in found.path] == [
            digest(name[:end]) for end in range(len(name), 0, -1)
        ]
        assert found.parts() == [(context.digest, 100) for context in found.path]
        for engine in ("one", "two", "three"):
            held = [(context, context.holders[engine]) for context in found.path if engine in context.holders]
            certain = [context for context, residence in held if residence.certain]
            on_device = [context.depth for context, residence in held if "device" in residence.tiers]
            assert found.resident.get(engine) is (held[0][0] if held else None)
            assert found.certain.get(engine) is (certain[0] if certain else None)
            assert found.on_device.get(engine) == (on_device[0] if on_device else None)
        for longest in (found.resident, found.certain):
            depths = [context.depth for context in longest.values()]
            assert depths == sorted(depths, reverse=True)


@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=60))
def test_memory_is_bounded_and_beginnings_outlive_ends(prompts: list[str]) -> None:
    contexts = Contexts(most=8)
    for prompt in prompts:
        contexts.declare(None, segments(prompt))
        contexts.predict(digest(prompt), "one")
        assert len(contexts) <= 8
        # What was just declared is known from end to beginning.
        assert [found.digest for found in contexts.path(digest(prompt))] == [
            digest(prompt[:end]) for end in range(len(prompt), 0, -1)
        ]
        assert len(contexts._held["one"]) <= len(contexts)
