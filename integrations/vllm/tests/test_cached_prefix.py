"""The boundary between cached and missing blocks, found with few questions; and asked of vLLM's own cache."""

from hypothesis import given
from hypothesis import strategies as st

from llmd_agents_vllm.cached_prefix import boundary


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 400))
def test_the_boundary_is_found_whatever_the_guess(total: int, there: int, guess: int) -> None:
    there = min(there, total)
    asked: list[int] = []

    def present(index: int) -> bool:
        assert 0 <= index < total
        asked.append(index)
        return index < there

    assert boundary(total, guess, present) == there
    assert len(asked) <= 12
    if guess == there:
        assert len(asked) <= 2


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 50))
def test_holes_never_fail(blocks: list[bool], guess: int) -> None:
    assert 0 <= boundary(len(blocks), guess, lambda index: blocks[index]) <= len(blocks)
