"""Files are whole or absent: whatever is done to them, nothing wrong is ever read."""

import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents_vllm.directory_store.store import (
    BACK_OFF_S,
    HEADER_BYTES,
    UNFINISHED_MAX_AGE_S,
    BlockFiles,
    Outcome,
    log,
)

NAMESPACE, LAYOUT = b"n" * 16, b"l" * 16
KEY, PAYLOAD = b"\x01" * 32, bytes(range(256)) * 4
SIZE = HEADER_BYTES + len(PAYLOAD)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def files_in(
    root: Path, *, namespace: bytes = NAMESPACE, rank: int = 0, layout: bytes = LAYOUT
) -> BlockFiles:
    return BlockFiles(root, namespace, rank=rank, layout=layout)


def write(files: BlockFiles, key: bytes = KEY, payload: bytes = PAYLOAD, now: float = 0.0) -> bool:
    return files.write(key, memoryview(payload), now)


def read(files: BlockFiles, key: bytes = KEY, size: int = len(PAYLOAD)) -> bytes | Outcome:
    into = bytearray(size)
    outcome = files.read(key, memoryview(into))
    return bytes(into) if outcome is Outcome.READ else outcome


def names(root: Path) -> list[str]:
    return sorted(file.name for file in root.rglob("*") if not file.is_dir())


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    return files_in(tmp_path / "kv")


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder for one example of hypothesis."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(st.dictionaries(st.binary(min_size=1, max_size=64), st.binary(max_size=300), max_size=5))
def test_what_is_written_is_read_by_everybody(blocks: dict[bytes, bytes]) -> None:
    with folder() as root:
        writer, reader, planner = files_in(root), files_in(root), BlockFiles(root, NAMESPACE)
        for key, payload in blocks.items():
            assert not planner.holds(key)
            assert write(writer, key, payload)
        for key, payload in blocks.items():
            assert planner.holds(key)
            assert read(reader, key, len(payload)) == payload
        assert len(names(root)) == len(blocks)


def test_a_block_is_written_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "above" / "kv"
    first, second = files_in(root), files_in(root)
    assert write(first)
    assert write(second)
    assert (first.counts, second.counts) == (Counter(written=1), Counter())
    path = first.path(KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in list(path.parents)[:5]] == [0o700] * 5
    assert list(path.parents)[4] == root.parent


def test_a_block_that_is_not_there_is_absent(files: BlockFiles) -> None:
    assert not files.holds(KEY)
    assert read(files) is Outcome.ABSENT
    assert not files.holds(b"\x00" * 4000)  # no file system takes such a name
    assert not write(files, b"\x00" * 4000)
    assert write(files)  # and that stops nothing else


def test_files_that_are_only_looked_for_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only looked for"):
        write(BlockFiles(tmp_path, NAMESPACE))


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        7,
        8,
        9,
        40,
        HEADER_BYTES - 1,
        HEADER_BYTES,
        HEADER_BYTES + 1,
        SIZE // 2,
        SIZE - 1,
        SIZE + 1,
        2 * SIZE,
    ],
)
def test_a_file_of_the_wrong_size_counts_as_absent_and_goes(files: BlockFiles, size: int) -> None:
    write(files)
    whole = files.path(KEY).read_bytes()
    looks: list[Callable[[], bool]] = [lambda: files.holds(KEY), lambda: read(files) is Outcome.READ]
    for look in looks:
        files.path(KEY).write_bytes((whole + whole)[:size])
        assert not look()
        assert not files.path(KEY).exists()
    assert files.counts == Counter(written=1, truncated=2)
    assert write(files)
    assert read(files) == PAYLOAD


@given(bit=st.integers(0, SIZE * 8 - 1))
def test_no_flipped_bit_goes_unnoticed(bit: int) -> None:
    with folder() as root:
        files = files_in(root)
        write(files)
        raw = bytearray(files.path(KEY).read_bytes())
        raw[bit // 8] ^= 1 << bit % 8
        files.path(KEY).write_bytes(raw)
        assert read(files) is Outcome.ABSENT
        assert not files.holds(KEY)
        assert names(root) == []


@pytest.mark.parametrize(
    "owner",
    [
        {"namespace": b"m" * 16},
        {"rank": 1},
        {"layout": b"k" * 16},
    ],
)
def test_files_of_another_engine_are_not_taken(tmp_path: Path, owner: dict[str, object]) -> None:
    ours, theirs = files_in(tmp_path), files_in(tmp_path, **owner)  # type: ignore[arg-type]
    if owner.keys() != {"layout"}:
        assert ours.path(KEY) != theirs.path(KEY)
    write(theirs)
    ours.path(KEY).parent.mkdir(parents=True, exist_ok=True)
    if theirs.path(KEY) != ours.path(KEY):
        shutil.copy(theirs.path(KEY), ours.path(KEY))
    assert read(ours) is Outcome.ABSENT
    assert ours.counts == Counter({"of another engine or block": 1})


def test_a_file_under_another_block_s_name_is_not_taken(files: BlockFiles) -> None:
    other = KEY[:-1] + b"\x02"
    write(files)
    shutil.copy(files.path(KEY), files.path(other))
    assert not files.holds(other)
    assert read(files) == PAYLOAD


def test_a_payload_of_another_size_than_asked_for_is_not_taken(files: BlockFiles) -> None:
    write(files)
    assert read(files, size=len(PAYLOAD) - 1) is Outcome.ABSENT
    assert files.counts["of another size"] == 1


def test_foreign_files_are_removed_or_left_alone_but_never_waited_for(
    files: BlockFiles, tmp_path: Path
) -> None:
    path = files.path(KEY)
    secret = tmp_path / "secret"
    write(files)
    path.rename(secret)

    makers: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(secret),
        lambda: path.symlink_to(tmp_path / "nowhere"),
        lambda: path.write_text("# notes\n" * 100),
    ]
    for make in makers:
        make()
        assert not files.holds(KEY)
        assert not os.path.lexists(path)
    assert secret.exists()
    assert files.counts == Counter(written=1, foreign=4)

    path.mkdir()
    (path / "in use").touch()
    assert not files.holds(KEY)
    assert read(files) is Outcome.UNUSABLE
    assert not write(files)
    assert (path / "in use").exists()
    assert write(files, b"another")  # one name in the way stops nothing else


def test_writers_and_readers_at_once_see_whole_files_only(tmp_path: Path) -> None:
    blocks = {bytes([i]) * 32: bytes([i]) * 50_000 for i in range(8)}

    def work(worker: int) -> list[bytes | Outcome]:
        files, seen = files_in(tmp_path), []
        for turn in range(40):
            key = bytes([(worker + turn) % 8]) * 32
            assert write(files, key, blocks[key])
            seen.append(read(files, key, 50_000))
            if worker == 0:
                files.path(key).unlink(missing_ok=True)
        assert not set(files.counts) - {"read", "written"}
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = [outcome for part in pool.map(work, range(8)) for outcome in part]
    assert set(seen) <= {*blocks.values(), Outcome.ABSENT}
    assert not [name for name in names(tmp_path) if not name.endswith(".kv")]


WRITER = """
import sys
from pathlib import Path
from llmd_agents_vllm.directory_store.store import BlockFiles
files = BlockFiles(Path(sys.argv[1]), b"n" * 16, layout=b"l" * 16)
for turn in range(300):
    key = bytes([turn % 10]) * 32
    assert files.write(key, memoryview(key * 1000), 0.0)
    if turn % 3 == int(sys.argv[2]):
        files.path(key).unlink(missing_ok=True)
bad = [kind for kind in files.counts if kind != "written"]
assert not bad, bad
"""


def test_processes_write_the_same_blocks(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(i)],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == ""
        assert writer.returncode == 0
    files = files_in(tmp_path)
    for i in range(10):
        assert read(files, bytes([i]) * 32, 32_000) in (bytes([i]) * 32_000, Outcome.ABSENT)
    assert not [name for name in names(tmp_path) if not name.endswith(".kv")]


def test_a_refused_write_stops_writing_for_a_while_and_is_said_once(
    files: BlockFiles, said: list[str]
) -> None:
    assert write(files)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert not write(files, b"a" * 32, now=100.0)
        assert not files.writable(100.0 + BACK_OFF_S - 1)
        assert files.writable(100.0 + BACK_OFF_S)
        assert not write(files, b"a" * 32, now=100.0 + BACK_OFF_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not write(files, b"a" * 32, now=101.0 + BACK_OFF_S)  # not even tried
    assert read(files) == PAYLOAD
    assert write(files, b"a" * 32, now=100.0 + 2 * BACK_OFF_S)
    assert files.counts == Counter({"written": 2, "not written": 2, "read": 1})
    assert len(said) == 1
    assert "File too large" in said[0]
    assert len(names(files.path(KEY).parents[3])) == 2  # nothing unfinished is left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path, said: list[str]) -> None:
    files = files_in(small_disk)
    written = [write(files, bytes([i]) * 32, PAYLOAD * 10, now=0.0) for i in range(20)]
    assert any(written)
    assert not all(written)
    kept = [bytes([i]) * 32 for i in range(20) if written[i]]
    assert [read(files, key, len(PAYLOAD) * 10) for key in kept] == [PAYLOAD * 10] * len(kept)
    assert not [name for name in names(small_disk) if not name.endswith(".kv")]
    assert len(said) == 1
    assert "No space left" in said[0]


def test_a_read_only_disk(small_disk: Path, said: list[str]) -> None:
    files = files_in(small_disk)
    damaged = b"d" * 32
    write(files)
    write(files, damaged)
    with files.path(damaged).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read(files) == PAYLOAD
    assert not write(files, b"a" * 32)
    assert files.holds(damaged)  # its header is right
    assert read(files, damaged) is Outcome.UNUSABLE
    assert files.clear() == 2
    assert len(said) == 3  # not written, corrupt, not removed


def test_a_directory_that_cannot_be_made(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "kv").write_text("not a directory")
    files = files_in(tmp_path / "kv")
    files.remove_unfinished(0.0)
    assert not write(files)
    assert not files.holds(KEY)
    assert files.clear() == 0
    assert (tmp_path / "kv").read_text() == "not a directory"
    assert len(said) == 2


def test_what_was_not_read_for_longest_goes_first(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path, NAMESPACE, layout=LAYOUT, max_bytes=10 * SIZE)
    keys = [bytes([i]) * 32 for i in range(10)]
    (tmp_path / "not ours").write_bytes(b"x" * 100 * SIZE)
    for age, key in enumerate(keys):
        assert write(files, key)
        os.utime(files.path(key), (age, age))
    assert read(files, keys[0]) == PAYLOAD
    assert write(files, b"new")
    held = [key for key in keys if files.holds(key)]
    assert held == [keys[0], *keys[3:]]
    assert files.counts["evicted"] == 2
    assert files.holds(b"new")
    assert (tmp_path / "not ours").exists()


def test_several_writers_stay_near_the_limit(tmp_path: Path) -> None:
    limit = 20 * SIZE
    writers = [
        BlockFiles(tmp_path, NAMESPACE, rank=rank, layout=LAYOUT, max_bytes=limit) for rank in range(3)
    ]
    for turn in range(50):
        for writer in writers:
            assert write(writer, turn.to_bytes(32, "big"))
        held = sum(file.stat().st_size for file in tmp_path.rglob("*.kv"))
        assert held <= limit + 3 * limit // 10 + SIZE


def test_what_a_dead_writer_left_is_removed(files: BlockFiles) -> None:
    write(files)
    parent = files.path(KEY).parent
    for name, changed in (("a.1.00.unfinished", 0.0), ("b.2.00.unfinished", 1000.0), ("c.old", 0.0)):
        (parent / name).touch()
        os.utime(parent / name, (changed, changed))
    files.remove_unfinished(1000.0 + UNFINISHED_MAX_AGE_S)
    assert names(parent) == sorted([files.path(KEY).name, "b.2.00.unfinished", "c.old"])


def test_clearing_removes_this_rank_and_namespace_only(tmp_path: Path) -> None:
    ours, other_rank, other_namespace = (
        files_in(tmp_path),
        files_in(tmp_path, rank=1),
        files_in(tmp_path, namespace=b"m" * 16),
    )
    for files in (ours, other_rank, other_namespace):
        write(files)
    assert ours.clear() == 0
    assert [files.holds(KEY) for files in (ours, other_rank, other_namespace)] == [False, True, True]


def test_the_store_needs_no_vllm() -> None:
    code = "import sys; import llmd_agents_vllm.directory_store.store; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
