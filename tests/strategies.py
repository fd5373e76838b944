"""Hypothesis strategies for JSON and for the contract's models."""

import string

from hypothesis import strategies as st

from llmd_agents.hints import (
    Forecast,
    ForkPosition,
    Hints,
    Lifetime,
    LoopPosition,
    Next,
    Program,
    Scope,
    Segment,
    SegmentType,
    Step,
)

ids = st.text(string.ascii_letters + string.digits + "._:~-", min_size=1, max_size=64).filter(
    lambda text: text[0].isalnum()
)
names = st.text(min_size=1, max_size=128).filter(str.isprintable)
digests = st.binary(min_size=16, max_size=16)
seconds = st.decimals(0, 10**9, places=3).map(float)
sizes = st.integers(0, 10**12)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)

messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.none()
        | st.text()
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), max_size=3),
    },
    optional={"name": st.text(), "tool_call_id": st.text(), "tool_calls": st.lists(json_values, max_size=2)},
)

bodies = st.fixed_dictionaries(
    {"model": st.text(), "messages": st.lists(messages, max_size=6)},
    optional={
        "tools": st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=3),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "temperature": st.floats(0, 2),
    },
)


@st.composite
def fork_positions(draw: st.DrawFn) -> ForkPosition:
    width = draw(st.integers(1, 1000))
    return ForkPosition(id=draw(ids), index=draw(st.integers(0, width - 1)), width=width)


segments = st.builds(
    Segment,
    type=st.sampled_from(SegmentType),
    digest=digests,
    size=sizes,
    tokens=st.none() | sizes,
    lifetime=st.none() | st.sampled_from(Lifetime) | seconds,
    scope=st.none() | st.sampled_from(Scope),
    merged=st.integers(1, 100),
)

hints = st.builds(
    Hints,
    program=st.builds(
        Program,
        id=ids,
        name=st.none() | names,
        priority=st.integers(0, 100),
        deadline=st.none() | st.decimals(0, 10**11, places=3).map(float),
    ),
    step=st.builds(
        Step,
        id=ids,
        branch=ids,
        kind=st.none() | names,
        model=st.none() | names,
        agent=st.none() | names,
        parents=st.lists(ids, max_size=4).map(tuple),
        join=st.none() | st.sampled_from(["all", "any"]) | st.integers(1, 9),
        fork=st.none() | fork_positions(),
        loop=st.none()
        | st.builds(LoopPosition, id=ids, iteration=st.integers(0, 99), limit=st.none() | st.integers(0, 99)),
    ),
    extends=st.none() | digests,
    segments=st.lists(segments, max_size=5).map(tuple),
    forecast=st.none()
    | st.builds(
        Forecast,
        next=st.sampled_from(Next),
        after=st.none() | seconds,
        sigma=st.none() | st.decimals(0, 10, places=3).map(float),
        fan_out=st.none() | st.integers(1, 1000),
        agent=st.none() | names,
        output_tokens=st.none() | sizes,
    ),
)
