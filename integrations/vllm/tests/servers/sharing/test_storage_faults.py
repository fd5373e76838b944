"""A directory that has gone bad costs computing, and no answer."""

import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.engines import Engine
from harness.hinted import Messages
from llmd_agents_vllm.directory_store.store import HEADER_BYTES
from tests.servers.fleet import TELLING, Fleet, asked, context, forget


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(file.name).randbytes(file.stat().st_size))


def wrong_payload(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:HEADER_BYTES] + bytes(max(len(whole) - HEADER_BYTES, 0)))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def files(engines: Fleet) -> list[Path]:
    return list((engines.folder / "kv").rglob("*.kv"))


def texts(engine: Engine, conversations: Sequence[Messages]) -> list[str]:
    with ThreadPoolExecutor(4) as threads:
        return list(
            threads.map(
                lambda each: str(engine.chat(each, **TELLING)["choices"][0]["message"]["content"]),
                conversations,
            )
        )


@pytest.mark.parametrize("spoil", [garbage, empty, wrong_payload])
def test_files_full_of_garbage_are_computed_anew(engines: Fleet, spoil: Callable[[Path], None]) -> None:
    engine = engines.engines[0]
    messages = context(f"spoiled by {spoil.__name__}")
    computed = asked(engine, messages)
    forget(engine)
    assert asked(engine, messages) == computed.served_from("disk")

    forget(engine)
    for file in files(engines):
        spoil(file)
    again = asked(engine, messages)
    assert (again.text, again.cached_tokens) == (computed.text, 0)
    forget(engine)
    assert asked(engine, messages) == computed.served_from("disk")


def test_a_directory_that_goes_bad_between_requests_changes_no_answer(engines: Fleet) -> None:
    engine = engines.engines[0]
    conversations = [context(f"in the middle {at}", 120) for at in range(12)]
    computed = texts(engine, conversations)
    forget(engine)
    with ThreadPoolExecutor(1) as thread:
        again = thread.submit(texts, engine, conversations * 3)
        while not again.done():
            for file in files(engines):
                with suppress(FileNotFoundError):  # another was faster to find it spoiled
                    garbage(file)
        assert again.result() == computed * 3
    forget(engine)
    assert texts(engine, conversations) == computed


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Remounts a folder, since whoever may do everything may write whatever its mode says."""
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_directory_that_nobody_can_write_to_is_read_or_passed_by(engines: Fleet) -> None:
    """With the last engine, which writes nothing for a while after it was refused."""
    *_, engine = engines.engines
    good, bad = context("read-only good"), context("read-only bad")
    before = set(files(engines))
    computed_bad = asked(engine, bad)
    spoiled = set(files(engines)) - before
    computed_good = asked(engine, good)
    kept = set(files(engines))
    forget(engine)
    for file in spoiled:
        garbage(file)
    with read_only(engines.folder / "kv"):
        assert asked(engine, good) == computed_good.served_from("disk")
        for _ in range(2):
            again = asked(engine, bad)
            assert (again.text, again.cached_tokens) == (computed_bad.text, 0)
            forget(engine)
        assert asked(engine, context("read-only unseen")).cached_tokens == 0
        assert set(files(engines)) == kept
    forget(engine)
    assert asked(engine, good) == computed_good.served_from("disk")
