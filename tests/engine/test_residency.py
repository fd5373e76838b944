from llmd_agents.engine import Block, EngineCore, StepOutput
from llmd_agents.hints import ResidencyChange, Tier
from tests.engine.stories import digest, profile, request, run


def told(outputs: list[StepOutput]) -> list[str]:
    """Changes in order: "+A8" for a digest that became resident with 8 tokens, "-A8" for one that went."""
    return [
        f"{'+' if change.resident else '-'}{change.digest[:1].decode()}{change.tokens}"
        for output in outputs
        for change in output.residency
    ]


def resident(core: EngineCore) -> set[str]:
    return {change.digest[:1].decode() for change in core.resident()}


def test_digest_is_resident_once_its_full_blocks_are() -> None:
    core = EngineCore(profile(max_num_batched_tokens=6))
    first = request("a", "abcdefghijkl", boundaries=[("H", 0), ("A", 3), ("B", 5), ("C", 11), ("D", 12)])

    outputs = run(core, first)

    # Chunks end at 6 and 12: one full block covers B, three cover C and D. H and A have no full block.
    assert told(outputs[:1]) == ["+B5"]
    assert told(outputs[1:]) == ["+C11", "+D12"]
    assert core.resident()[0] == ResidencyChange(
        digest=digest("B"), tier=Tier.DEVICE, tokens=5, resident=True
    )


def test_hit_prefix_is_not_told_again_but_new_names_for_it_are() -> None:
    core = EngineCore(profile())
    run(core, request("a", "abcdefgh", boundaries=[("A", 4), ("B", 8)]))

    assert told(run(core, request("b", "abcdefgh", boundaries=[("A", 4), ("B", 8)]))) == []
    assert told(run(core, request("c", "abcdefghi", boundaries=[("X", 4), ("B", 8)]))) == ["+X4"]


def test_reply_becomes_resident_when_the_next_turn_names_it() -> None:
    core = EngineCore(profile())
    run(core, request("a", "abcd", "efghi", boundaries=[("A", 4)]))

    outputs = run(core, request("b", "abcdefghij", boundaries=[("A", 4), ("B", 9)]))

    assert told(outputs) == ["+B9"]


def test_digest_goes_with_any_block_of_its_own_range() -> None:
    core = EngineCore(profile(num_blocks=6))
    run(core, request("a", "abcdefghijklmnop", boundaries=[("A", 4), ("B", 12), ("C", 16)]))

    # One block was never used; the next to go are the tail of a: m-p (C), then i-l (the end of B).
    assert told(run(core, request("b", "qrst"))) == []
    assert told(run(core, request("c", "uvwx"))) == ["-C16"]
    assert told(run(core, request("d", "yz12"))) == ["-B12"]
    assert told(run(core, request("e", "3456"))) == []
    assert resident(core) == {"A"}


def test_digest_goes_with_its_ancestors_and_returns_with_them() -> None:
    class HeadFirst:
        """Gives up the heads of requests before their tails."""

        def __init__(self) -> None:
            self._blocks: list[Block] = []

        def add(self, block: Block) -> None:
            self._blocks.append(block)

        def discard(self, block: Block) -> None:
            self._blocks.remove(block)

        def pop(self, now: float) -> Block:
            return self._blocks.pop()

        def __len__(self) -> int:
            return len(self._blocks)

    core = EngineCore(profile(num_blocks=4), eviction=HeadFirst())
    chain = [("A", 4), ("B", 8), ("C", 9)]
    run(core, request("a", "abcdefghi", boundaries=chain))
    assert resident(core) == {"A", "B", "C"}

    assert told(run(core, request("b", "qrstu"))) == ["-A4", "-B8", "-C9"]
    assert resident(core) == set()
    # The block of B had stayed.
    assert told(run(core, request("c", "abcd", boundaries=chain[:1]))) == ["+A4", "+B8", "+C9"]
    assert told(run(core, request("d", "abcdefghi", boundaries=chain))) == []


def test_digest_under_two_roots_is_resident_while_one_is() -> None:
    core = EngineCore(profile(num_blocks=4))
    run(core, request("a", "abcd", boundaries=[("A", 4)]))

    assert told(run(core, request("b", "abcd", root=b"salt", boundaries=[("A", 4)]))) == []
    assert len(core.resident()) == 1
    run(core, request("c", "ijkl"))
    assert told(run(core, request("d", "mnop"))) == []
    assert told(run(core, request("e", "qrst"))) == ["-A4"]


def test_duplicates_keep_a_digest_resident() -> None:
    core = EngineCore(profile(num_blocks=4))
    # The second computes the only block again, since a hit must leave the last token.
    run(core, request("a", "abcd", boundaries=[("A", 4)]))
    run(core, request("b", "abcd", boundaries=[("A", 4)]))
    run(core, request("c", "ijkl"))

    assert told(run(core, request("d", "mnop"))) == []
    assert told(run(core, request("e", "qrst"))) == ["-A4"]


def test_reset_is_no_change_but_a_clearing() -> None:
    core = EngineCore(profile())
    run(core, request("a", "abcdefgh", boundaries=[("A", 4)]))

    assert core.reset_prefix_cache()

    assert core.resident() == ()
    assert told(run(core, request("b", "xyz"))) == []
    assert told(run(core, request("c", "abcdefgh", boundaries=[("A", 4)]))) == ["+A4"]
