"""A real engine reads from the directory what any engine has written there, and nothing that is wrong."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from vllm import SamplingParams, TokensPrompt

from harness.in_process import InProcessEngine, in_process
from llmd_agents_vllm.directory_store import SharedDirectoryConnector, store, store_of_process
from llmd_agents_vllm.directory_store.planner import Planner
from llmd_agents_vllm.directory_store.store import HEADER_BYTES, BlockFiles

BLOCK = 32


def config(path: Path, **settings: Any) -> dict[str, Any]:
    return {
        "kv_connector": "SharedDirectoryConnector",
        "kv_connector_module_path": "llmd_agents_vllm.directory_store",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"path": str(path), **settings},
    }


@dataclass(frozen=True)
class Reply:
    """One request's output with the probabilities behind it, which show what context the model saw."""

    output: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached_tokens: int

    def same_as(self, other: "Reply") -> bool:
        return self.output == other.output and self.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@dataclass(frozen=True)
class Engine:
    """An engine with the connector, alone or as the only child of a `MultiConnector`."""

    engine: InProcessEngine
    store: SharedDirectoryConnector
    path: Path

    def ask(self, prompt: Sequence[int], *, cache_salt: str | None = None, max_tokens: int = 8) -> Reply:
        return self.ask_all([prompt], cache_salt=cache_salt, max_tokens=max_tokens)[0]

    def ask_all(
        self, prompts: Sequence[Sequence[int]], *, cache_salt: str | None = None, max_tokens: int = 8
    ) -> list[Reply]:
        salt = {"cache_salt": cache_salt} if cache_salt is not None else {}
        results = self.engine.llm.generate(
            [TokensPrompt(prompt_token_ids=list(prompt), **salt) for prompt in prompts],
            SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=0),
            use_tqdm=False,
        )
        return [
            Reply(
                tuple(result.outputs[0].token_ids),
                tuple(next(iter(step.values())).logprob for step in result.outputs[0].logprobs),
                result.num_cached_tokens or 0,
            )
            for result in results
        ]

    def forget_device(self) -> None:
        assert self.engine.llm.reset_prefix_cache()

    def metric(self, name: str, **labels: str) -> int:
        return sum(
            int(metric.value)
            for metric in self.engine.llm.get_metrics()
            if metric.name == name and labels.items() <= metric.labels.items()
        )

    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.kv"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "kv"


@pytest.fixture(scope="module")
def first(tiny_model: Path, shared: Path) -> Iterator[Engine]:
    with in_process(tiny_model, kv_transfer_config=config(shared)) as engine:
        assert isinstance(engine.connector, SharedDirectoryConnector)
        yield Engine(engine, engine.connector, shared)


def prompt(name: str, tokens: int = 200) -> list[int]:
    """A prompt that begins as no other name's does."""
    return [3 + (ord(name[i % len(name)]) * (i + 7) * 31 + i * i) % 900 for i in range(tokens)]


def file_of(engine: Engine, tokens: Sequence[int], block: int) -> Path:
    """The file of one block of a prompt, found by making vLLM's hashes for it."""
    from vllm.v1.request import Request

    params = SamplingParams(max_tokens=1)
    hasher = engine.engine.core.request_block_hasher
    request = Request("x", list(tokens), params, None, block_hasher=hasher)
    (path,) = engine.path.rglob(request.block_hashes[block].hex() + ".kv")
    return path


def test_what_was_computed_is_read_from_disk_after_the_device_forgot(first: Engine) -> None:
    tokens = prompt("disk")
    counts, on_disk = first.store.counts, first.metric("vllm:prompt_tokens_cached_by_source", source="disk")
    computed = first.ask(tokens)
    device = first.ask(tokens)
    assert first.store.counts - counts == {"written": 6}
    first.forget_device()
    disk = first.ask(tokens)
    assert (computed.cached_tokens, device.cached_tokens, disk.cached_tokens) == (0, 192, 192)
    assert disk.same_as(computed)
    assert first.store.counts - counts == {"written": 6, "read": 6}
    assert first.metric("vllm:prompt_tokens_cached_by_source", source="disk") - on_disk == 192
    assert first.engine.block_pool.get_num_free_blocks() == 159


def test_what_is_on_disk_is_what_the_model_sees(first: Engine) -> None:
    """A valid file with another block's payload changes the answer: the comparisons here can fail."""
    tokens = prompt("sees")
    computed = first.ask(tokens)
    victim, donor = file_of(first, tokens, 1), file_of(first, tokens, 4)
    files = first.store._planner._files[0]  # type: ignore[union-attr]
    layout = victim.read_bytes()[24:40]
    forger = BlockFiles(files._root, first.store._planner._namespace, layout=layout)  # type: ignore[union-attr]
    key = bytes.fromhex(victim.stem)
    victim.unlink()
    assert forger.write(key, memoryview(donor.read_bytes()[HEADER_BYTES:]), 0.0)
    first.forget_device()
    misled = first.ask(tokens)
    assert misled.cached_tokens == 192
    assert not misled.same_as(computed)
    victim.unlink()


def test_generated_tokens_are_part_of_the_next_prompt(first: Engine) -> None:
    tokens = prompt("turns", 60)
    reply = first.ask(tokens, max_tokens=80)
    turn = [*tokens, *reply.output, *prompt("next", 20)]
    computed = first.ask(turn, cache_salt="apart")
    first.forget_device()
    again = first.ask(turn)
    assert again.cached_tokens == 128  # 139 tokens of 140: the last one generated has not been computed
    assert again.same_as(computed)


def test_a_prompt_of_whole_blocks_computes_its_last_block(first: Engine) -> None:
    tokens = prompt("whole", 4 * BLOCK)
    computed = first.ask(tokens)
    first.forget_device()
    assert first.ask(tokens).same_as(computed)
    first.forget_device()
    assert first.ask(tokens).cached_tokens == 3 * BLOCK


def test_the_device_s_blocks_are_continued_from_disk(first: Engine) -> None:
    tokens = prompt("continued", 400)
    computed = first.ask(tokens)
    first.forget_device()
    first.ask(tokens[:100])
    counts = first.store.counts
    again = first.ask(tokens)
    assert again.cached_tokens == 384
    assert again.same_as(computed)
    assert first.store.counts - counts == {"read": 9}  # three of twelve were on the device


def test_another_salt_has_other_blocks(first: Engine) -> None:
    tokens = prompt("salt")
    mine = first.ask(tokens, cache_salt="mine")
    first.forget_device()
    assert first.ask(tokens).cached_tokens == 0
    assert first.ask(tokens, cache_salt="yours").cached_tokens == 0
    first.forget_device()
    again = first.ask(tokens, cache_salt="mine")
    assert again.cached_tokens == 192
    assert again.same_as(mine)


def damage_between_lookup_and_load(monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    """Calls `damage` once, after the blocks were found and before they are loaded."""
    allocated = Planner.allocated

    def once(planner: Planner, request: Any, ids: Any, external_tokens: int) -> None:
        if external_tokens:
            damage()
            monkeypatch.setattr(Planner, "allocated", allocated)
        allocated(planner, request, ids, external_tokens)

    monkeypatch.setattr(Planner, "allocated", once)


def flip_last_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("block", [0, 3, 5])
@pytest.mark.parametrize("fault", ["corrupt", "truncated", "gone"])
def test_a_block_that_fails_to_load_is_computed(
    first: Engine, monkeypatch: pytest.MonkeyPatch, block: int, fault: str
) -> None:
    tokens = prompt(f"{fault} {block}")
    computed = first.ask(tokens)
    first.forget_device()
    victim = file_of(first, tokens, block)
    damages = {
        "corrupt": lambda: flip_last_bit(victim),
        "truncated": lambda: victim.write_bytes(victim.read_bytes()[:-1]),
        "gone": victim.unlink,
    }
    damage_between_lookup_and_load(monkeypatch, damages[fault])
    counts = first.store.counts
    again = first.ask(tokens)
    assert again.same_as(computed)
    assert again.cached_tokens == block * BLOCK
    happened = first.store.counts - counts
    assert happened[fault] == (fault != "gone")
    assert happened["written"] == 1
    first.forget_device()
    assert first.ask(tokens).cached_tokens == 192
    assert first.engine.block_pool.get_num_free_blocks() == 159


def test_requests_that_share_a_damaged_block_all_get_it_right(
    first: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = prompt("siblings")
    prompts = [[*tokens, *prompt(f"child {i}", 50)] for i in range(6)]
    computed = first.ask_all(prompts, cache_salt="apart")
    first.ask(tokens)
    first.forget_device()
    victim = file_of(first, tokens, 2)
    damage_between_lookup_and_load(monkeypatch, lambda: flip_last_bit(victim))
    again = first.ask_all(prompts)
    assert all(reply.same_as(other) for reply, other in zip(again, computed, strict=True))
    assert first.engine.block_pool.get_num_free_blocks() == 159


def test_a_damaged_file_that_cannot_be_removed_is_asked_for_once(
    first: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BACK_OFF_S", 0.0)
    tokens = prompt("read-only")
    computed = first.ask(tokens)
    first.forget_device()
    flip_last_bit(file_of(first, tokens, 3))
    path = str(first.path)
    if subprocess.run(["mount", "--bind", path, path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        counts = first.store.counts
        again = first.ask(tokens)
        assert again.same_as(computed)
        assert again.cached_tokens == 3 * BLOCK
        assert (first.store.counts - counts)["corrupt"] == 1
        first.forget_device()
        assert first.ask(tokens).cached_tokens == 3 * BLOCK
        assert (first.store.counts - counts)["corrupt"] == 1
        fresh = first.ask(prompt("while read-only"))
        assert len(fresh.output) == 8
        assert (first.store.counts - counts)["written"] == 0
    finally:
        subprocess.run(["umount", path], check=True)


def test_an_engine_goes_on_when_its_directory_is_gone(
    first: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BACK_OFF_S", 0.0)
    tokens = prompt("gone")
    computed = first.ask(tokens, cache_salt="before")
    kept = tmp_path / "kept"
    first.path.rename(kept)
    first.path.write_text("in the way")
    try:
        first.forget_device()
        again = first.ask(tokens)
        assert again.same_as(computed)
        assert again.cached_tokens == 0
    finally:
        first.path.unlink()
        kept.rename(first.path)


def test_the_process_s_store_says_what_it_holds(first: Engine) -> None:
    tokens = prompt("holds")
    first.ask(tokens)
    block_hash = bytes.fromhex(file_of(first, tokens, 2).stem)
    assert store_of_process() is first.store
    assert first.store.holds(block_hash)
    assert not first.store.holds(b"\x00" * 32)
    assert not first.store.holds(b"")
    assert first.store.declined is None


def test_preempted_requests_find_their_own_blocks(first: Engine) -> None:
    prompts = [prompt(f"preempted {i}", 600) for i in range(8)]
    computed = [first.ask(each, cache_salt="apart", max_tokens=60) for each in prompts]
    preemptions, counts = first.metric("vllm:num_preemptions"), first.store.counts
    again = first.ask_all(prompts, max_tokens=60)
    assert first.metric("vllm:num_preemptions") > preemptions
    assert (first.store.counts - counts)["read"] > 0
    assert all(reply.same_as(other) for reply, other in zip(again, computed, strict=True))
    assert first.engine.block_pool.get_num_free_blocks() == 159


def test_a_reset_of_connectors_forgets_what_is_on_disk(first: Engine) -> None:
    tokens = prompt("reset")
    first.ask(tokens)
    assert first.engine.core.reset_prefix_cache()
    assert first.files()
    assert first.engine.core.reset_prefix_cache(reset_connector=True)
    assert first.files() == []
    assert first.ask(tokens).cached_tokens == 0
    assert first.files()


def test_a_second_engine_under_a_multi_connector_reads_what_the_first_wrote(
    first: Engine, tiny_model: Path, shared: Path
) -> None:
    tokens = prompt("second")
    computed = first.ask(tokens)
    first.engine.llm.llm_engine.engine_core.shutdown()
    children = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"connectors": [config(shared)]},
    }
    with in_process(tiny_model, kv_transfer_config=children) as engine:
        (child,) = engine.connector.sub_connectors  # type: ignore[union-attr]
        second = Engine(engine, child, shared)
        assert store_of_process() is child is not None
        again = second.ask(tokens)
        assert again.cached_tokens == 192
        assert again.same_as(computed)
        assert child.counts == {"read": 6}
        assert second.metric("vllm:prompt_tokens_cached_by_source", source="disk") == 192

        flip_last_bit(file_of(second, tokens, 2))
        second.forget_device()
        recomputed = second.ask(tokens)
        assert recomputed.same_as(computed)
        assert recomputed.cached_tokens == 64
        assert child.counts["corrupt"] == 1

        second.forget_device()
        shutil.rmtree(shared)
        assert second.ask(tokens).same_as(computed)
        second.forget_device()
        assert second.ask(tokens).cached_tokens == 192
