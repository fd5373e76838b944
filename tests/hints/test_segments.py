from llmd_agents.hints import Lifetime, Scope, Segment, SegmentType, chain, segments_of
from llmd_agents.hints.limits import SIZE_MAX
from llmd_agents.hints.segments import merge_oldest


def test_types_follow_the_roles() -> None:
    links = chain(
        {
            "model": "m",
            "tools": [{"type": "function", "function": {"name": "search"}}],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "tool", "content": "42", "tool_call_id": "1"},
            ],
        }
    )
    segments = segments_of(links)
    assert [s.type.value for s in segments] == [
        "tool_definition",
        "system_prompt",
        *["conversation_turn"] * 3,
    ]
    assert [s.digest for s in segments] == [link.digest for link in links]
    assert segments[0].effective_lifetime is Lifetime.PERSISTENT
    assert segments[0].effective_scope is Scope.TENANT
    assert segments[2].effective_lifetime is Lifetime.BRANCH


def test_a_head_without_tools_is_no_segment() -> None:
    assert segments_of(chain({"model": "m", "messages": []})) == ()


def test_a_chain_of_any_length_gives_no_more_than_the_limit() -> None:
    messages = [{"role": "user", "content": str(number)} for number in range(10_000)]
    links = chain({"model": "m", "messages": messages})
    segments = segments_of(links)
    assert len(segments) == 4096
    assert sum(s.size for s in segments) == sum(link.size for link in links)
    assert segments[-1].digest == links[-1].digest
    assert [s.merged > 1 for s in segments].index(True) == 2


def one_each(_: Segment) -> int:
    return 1


def test_merging_covers_the_same_context() -> None:
    messages = [{"role": "user" if i else "system", "content": "x" * i} for i in range(10)]
    segments = segments_of(chain({"model": "m", "messages": messages}))
    for most in range(1, 12):
        merged = merge_oldest(segments, one_each, most)
        assert len(merged) == min(most, 10)
        assert merged[-1].digest == segments[-1].digest
        assert sum(s.size for s in merged) == sum(s.size for s in segments)
    kept = merge_oldest(segments, one_each, 4)
    assert kept[0].type is SegmentType.SYSTEM_PROMPT
    assert [s.merged for s in kept] == [1, 7, 1, 1]


def test_merging_stops_as_soon_as_the_lengths_fit() -> None:
    segments = tuple(
        Segment(type=SegmentType.CONVERSATION_TURN, digest=index.to_bytes(16, "big"), size=1)
        for index in range(10)
    )
    kept = merge_oldest(segments, lambda segment: 10 + segment.merged, 90)
    assert [s.merged for s in kept] == [3, *[1] * 7]
    assert merge_oldest(segments, one_each, 10) == segments


def test_sums_stay_within_what_a_size_may_be() -> None:
    segments = [
        Segment(type=SegmentType.DOCUMENT, digest=bytes([index] * 16), size=SIZE_MAX, tokens=SIZE_MAX)
        for index in range(3)
    ]
    (kept,) = merge_oldest(segments, one_each, 1)
    assert Segment.model_validate(kept.model_dump()) == kept
    assert (kept.size, kept.tokens, kept.merged) == (SIZE_MAX, SIZE_MAX, 3)
