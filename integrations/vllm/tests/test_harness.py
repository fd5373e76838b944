"""The harness runs real engines, in this process and as servers, and leaves nothing behind."""

from pathlib import Path

from harness.in_process import in_process

PROMPT = [{"role": "user", "content": "Mabada kelo vuri. " * 40}]


def test_engines_in_this_process_one_after_the_other(tiny_model: Path) -> None:
    for _ in range(2):
        with in_process(tiny_model) as engine:
            first, again = engine.generate(PROMPT), engine.generate(PROMPT)
            assert len(first.output) == 8
            assert first.prompt == again.prompt
            assert first.output == again.output
            assert first.cached_tokens == 0
            assert again.cached_tokens == (len(first.prompt) - 1) // 32 * 32 > 0
            assert engine.connector is None
            assert engine.block_pool.get_num_free_blocks() == 159
