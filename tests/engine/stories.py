"""A tiny engine and short ways to tell what happens in it."""

from collections.abc import Sequence

from llmd_agents.engine import EngineCore, EngineProfile, EngineRequest, Record, StepOutput

ROOT = b"root"


def profile(
    *,
    block_size: int = 4,
    num_blocks: int = 11,
    max_model_len: int = 1000,
    max_num_batched_tokens: int = 1000,
    max_num_seqs: int = 8,
    host_blocks: int = 0,
    storage_blocks: int = 0,
    peers: bool = False,
) -> EngineProfile:
    """An engine whose step takes 1 s, 0.1 s more per prompt token and 0.01 s more per decoding sequence.

    A transfer takes 0.01 s, and per block 0.01 s from the host tier and 0.1 s from storage or a peer.
    """
    return EngineProfile(
        name="story",
        block_size=block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        step_overhead_s=1.0,
        prefill_s_per_token=0.1,
        prefill_s_per_token_context=0.0,
        decode_s_per_seq=0.01,
        decode_s_per_context_token=0.0,
        kv_bytes_per_token=1,
        host_blocks=host_blocks,
        host_bytes_per_s=100.0 * block_size,
        storage_blocks=storage_blocks,
        storage_bytes_per_s=10.0 * block_size,
        peer_bytes_per_s=10.0 * block_size if peers else 0.0,
        transfer_latency_s=0.01,
    )


def words(text: str) -> bytes:
    """One token per character."""
    return b"".join(character.encode().ljust(4, b"_") for character in text)


def request(
    name: str,
    prompt: str,
    output: str = ".",
    *,
    root: bytes = ROOT,
    boundaries: Sequence[tuple[str, int]] = (),
) -> EngineRequest:
    """A request of one token per character; boundaries are named by one letter each."""
    named = tuple((digest(letter), tokens) for letter, tokens in boundaries)
    return EngineRequest(name, words(prompt), words(output), root, named)


def digest(letter: str) -> bytes:
    return letter.encode() * 16


def run(core: EngineCore, *requests: EngineRequest, now: float = 0.0) -> list[StepOutput]:
    """Adds the requests and steps the core until it is idle."""
    for each in requests:
        core.add(each, now)
    outputs: list[StepOutput] = []
    while core.has_work or core.next_event() is not None:
        if not core.has_work:
            now = max(now, core.next_event() or 0.0)
        outputs.append(core.step(now))
        now += outputs[-1].duration_s
    return outputs


def log(records: Sequence[Record]) -> list[str]:
    """Records as short lines; hashes left out."""
    lines = []
    for record in records:
        name = type(record).__name__.lower()
        who = getattr(record, "request_id", "") or getattr(getattr(record, "request", None), "id", "")
        rest = [getattr(record, key) for key in ("cached_tokens", "start", "end") if hasattr(record, key)]
        lines.append(" ".join([name, *([who] if who else []), *map(str, rest)]))
    return lines
