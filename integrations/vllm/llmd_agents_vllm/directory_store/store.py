"""A directory of block files, which several processes write and read at once, without vLLM.

A file appears complete or not at all (written under another name, then renamed), and every read verifies all
of it. What fails that test counts as absent and is removed, so that a damaged file costs one recomputation.

    <root>/<namespace>/r<rank>/<first two digits of the key>/<key>.kv

    magic 8 | H(namespace, rank) 16 | layout 16 | H(key) 16 | length of payload 8 | H(payload) 16 | payload

Sizes are bytes, numbers big-endian. H is xxh3-128, which finds damage, not forgery: whoever can write into
the directory can change what the models that read it will say. So it is made for its owner alone.
"""

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from struct import Struct
from typing import Final

from xxhash import xxh3_128_digest

_HEADER: Final = Struct(">8s16s16s16sQ16s")
_MAGIC: Final = b"LLMDKV\0\1"  # the last byte is the version of this format
HEADER_BYTES: Final = _HEADER.size

SUFFIX: Final = ".kv"
_UNFINISHED: Final = ".unfinished"

BACK_OFF_S: Final = 60.0
"""How long nothing is written after the file system refused a write."""

UNFINISHED_MAX_AGE_S: Final = 600.0
"""An unfinished file that nobody has written to for so long has lost its writer."""

# A name in the way of one file says nothing about the next one.
_ONE_FILE_ONLY: Final = frozenset(
    {errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG}
)

# Below "vllm", whose handlers are the ones that an engine's log has.
log = logging.getLogger("vllm.llmd_agents.directory_store")


class Outcome(Enum):
    """What became of a read."""

    READ = auto()
    ABSENT = auto()
    """There is no such file, or not any more: a damaged one has been removed."""
    UNUSABLE = auto()
    """There is a file that can be neither used nor removed: asking again would end the same way."""


class BlockFiles:
    """The files of one rank in one namespace.

    No method raises an `OSError`: a file that cannot be read is absent, a file system that cannot be written
    to is left alone for `BACK_OFF_S`. `counts` says how often what happened; each kind of fault is logged
    once.

    Args:
        root: the directory that engines share; made when first written to.
        namespace: 16 bytes that stand for all that must be equal for blocks to be exchanged.
        rank: the rank within a tensor-parallel group.
        layout: 16 bytes for how a payload is laid out; None where payloads are only looked for.
        max_bytes: about how much `root` may hold, all namespaces and ranks; beyond it, what was not read for
            longest goes. Each writer may be a tenth beyond it before it looks. None sets no limit.
    """

    def __init__(
        self,
        root: Path,
        namespace: bytes,
        *,
        rank: int = 0,
        layout: bytes | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._root = root
        self._folder = root / namespace.hex() / f"r{rank}"
        self._owner = xxh3_128_digest(namespace + rank.to_bytes(4, "big"))
        self._layout = layout
        self._max_bytes = max_bytes
        self._bytes_before_look = 0
        self._quiet_until = float("-inf")
        self._logged: set[str] = set()
        self.counts: Counter[str] = Counter()

    def path(self, key: bytes) -> Path:
        name = key.hex()
        return self._folder / name[:2] / (name + SUFFIX)

    def holds(self, key: bytes) -> bool:
        """Whether there is a file for `key` whose header and size are right; its payload is not read."""
        file = self._open(key)
        if file is None:
            return False
        try:
            return self._size_and_checksum(file, key) is not None
        finally:
            os.close(file)

    def read(self, key: bytes, into: memoryview) -> Outcome:
        """Reads and verifies the payload of `key`, which must be as long as `into`.

        `into` holds the payload only if the outcome is `READ`.
        """
        file = self._open(key)
        if file is None:
            return self._what_is_left(key)
        try:
            expected = self._size_and_checksum(file, key)
            if expected is None:
                return self._what_is_left(key)
            size, checksum = expected
            if size != len(into):
                return self._reject(key, "of another size")
            if _fill(file, into) != size or xxh3_128_digest(into) != checksum:
                return self._reject(key, "corrupt")
            with suppress(OSError):  # not ours, or read-only: it will look older than it is
                os.utime(file)
        except OSError as error:
            self._fault("unreadable", error)
            return Outcome.UNUSABLE
        finally:
            os.close(file)
        self.counts["read"] += 1
        return Outcome.READ

    def writable(self, now: float) -> bool:
        """Whether writing has not been given up for the moment; `now` is monotonic, in seconds."""
        return now >= self._quiet_until

    def write(self, key: bytes, payload: memoryview, now: float) -> bool:
        """Writes the payload of `key`, unless it is there; returns whether it is there now.

        Raises:
            ValueError: these files have no layout, so that they are only looked for.
        """
        if self._layout is None:
            raise ValueError("files without a layout are only looked for, not written")
        if self.holds(key):
            return True
        if not self.writable(now):
            return False
        header = _HEADER.pack(
            _MAGIC,
            self._owner,
            self._layout,
            xxh3_128_digest(key),
            len(payload),
            xxh3_128_digest(payload),
        )
        try:
            self._write(self.path(key), header, payload)
        except OSError as error:
            self._fault("not written", error)
            if error.errno not in _ONE_FILE_ONLY:
                self._quiet_until = now + BACK_OFF_S
            return False
        self.counts["written"] += 1
        self._logged.discard("not written")
        self._stay_below_limit(HEADER_BYTES + len(payload))
        return True

    def clear(self) -> int:
        """Removes all files of this rank and namespace; returns how many are left because that failed."""
        left = 0
        for file in _files(self._folder, SUFFIX):
            try:
                os.unlink(file)
            except FileNotFoundError:
                pass
            except OSError as error:
                left += 1
                self._fault("not removed", error)
        return left

    def remove_unfinished(self, now: float) -> None:
        """Removes what writers that died have left; `now` is the time of day, as files carry it."""
        for file in _files(self._root, _UNFINISHED):
            try:
                if now - file.stat(follow_symlinks=False).st_mtime > UNFINISHED_MAX_AGE_S:
                    os.unlink(file)
                    self.counts["unfinished removed"] += 1
            except OSError:
                continue  # its writer finished it, another engine removed it, or it is not ours

    def _open(self, key: bytes) -> int | None:
        try:
            # What was put there may be a link, or a pipe that nobody will ever write to.
            return os.open(self.path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._reject(key, "foreign")
            else:
                self._fault("unreadable", error)
            return None

    def _size_and_checksum(self, file: int, key: bytes) -> tuple[int, bytes] | None:
        """What the header says of the payload, if everything but the payload is right."""
        try:
            status = os.fstat(file)
            raw = os.pread(file, HEADER_BYTES, 0) if stat.S_ISREG(status.st_mode) else b""
        except OSError as error:
            self._fault("unreadable", error)
            return None
        if not stat.S_ISREG(status.st_mode) or not _MAGIC.startswith(raw[:8]):
            self._reject(key, "foreign")
            return None
        if len(raw) < HEADER_BYTES:
            self._reject(key, "truncated")
            return None
        _, owner, layout, name, size, checksum = _HEADER.unpack(raw)
        if owner != self._owner or (self._layout or layout) != layout or name != xxh3_128_digest(key):
            self._reject(key, "of another engine or block")
            return None
        if status.st_size != HEADER_BYTES + size:
            self._reject(key, "truncated")
            return None
        return size, checksum

    def _reject(self, key: bytes, fault: str) -> Outcome:
        self._fault(fault, self.path(key))
        with suppress(OSError):
            os.unlink(self.path(key))
        return self._what_is_left(key)

    def _what_is_left(self, key: bytes) -> Outcome:
        return Outcome.UNUSABLE if os.path.lexists(self.path(key)) else Outcome.ABSENT

    def _write(self, path: Path, header: bytes, payload: memoryview) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        unfinished = path.with_name(f"{path.stem}.{os.getpid()}.{os.urandom(4).hex()}{_UNFINISHED}")
        try:
            file = os.open(unfinished, flags, 0o600)
        except FileNotFoundError:
            _make_folder(path.parent)
            file = os.open(unfinished, flags, 0o600)
        try:
            with open(file, "wb", buffering=0, closefd=True) as out:
                for part in (memoryview(header), payload):
                    while part:
                        part = part[out.write(part) :]
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _stay_below_limit(self, written: int) -> None:
        if self._max_bytes is None:
            return
        self._bytes_before_look -= written
        if self._bytes_before_look > 0:
            return
        self._bytes_before_look = self._max_bytes // 10
        found: list[tuple[float, int, os.DirEntry[str]]] = []
        for file in _files(self._root, SUFFIX):
            try:
                status = file.stat(follow_symlinks=False)
            except OSError:
                continue
            found.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in found)
        if total <= self._max_bytes:
            return
        for _, size, file in sorted(found, key=lambda each: (each[0], each[2].name)):
            if total <= self._max_bytes * 9 // 10:
                break
            try:
                os.unlink(file)
            except OSError as error:
                self._fault("not removed", error)
                continue
            total -= size
            self.counts["evicted"] += 1

    def _fault(self, kind: str, detail: object) -> None:
        self.counts[kind] += 1
        if kind in self._logged:
            return
        self._logged.add(kind)
        if kind == "not written":
            log.warning("KV block not written (%s); reading goes on, writing after a pause", detail)
        else:
            log.warning(
                "KV block file %s, so the block is computed: %s; said once, then counted", kind, detail
            )


def _fill(file: int, into: memoryview) -> int:
    filled = 0
    while filled < len(into):
        read = os.preadv(file, [into[filled:]], HEADER_BYTES + filled)
        if not read:
            break
        filled += read
    return filled


def _make_folder(folder: Path) -> None:
    """Makes the folder and those above it that are missing, all for their owner alone."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _files(folder: Path, suffix: str) -> Iterator[os.DirEntry[str]]:
    """The files below `folder` with that suffix; what cannot be listed is left out."""
    folders = [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.endswith(suffix):
                        yield entry
        except OSError:
            continue
