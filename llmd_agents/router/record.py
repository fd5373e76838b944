"""The record of a router's inputs and decisions: JSON lines in a file, written by a thread of its own."""

import logging
import os
import threading
from pathlib import Path

import orjson

log = logging.getLogger("llmd_agents.router")

WAITING_MAX_BYTES = 32 << 20
"""Lines that wait for the disk; past this they are dropped, and the file says how many."""

CLOSE_SECONDS = 5.0


class RecordFile:
    """Takes lines without ever waiting for the disk.

    Lines are added to the end of the file, which nobody but its owner may read if it is made here. Lines that
    cannot be written, because the disk is slow or full, are lost; in their place stands

        {"is": "dropped", "count": …}

    Attributes:
        dropped: lines lost so far.

    Raises:
        OSError: if the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.dropped = 0
        # A number stands for as many lines that were lost there.
        self._waiting: list[bytes | int] = []
        self._waiting_bytes = 0
        self._closing = False
        self._torn = False
        self._warned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_for_ever, name="record", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Adds one line of JSON, with or without its line end."""
        with self._changed:
            if self._waiting_bytes + len(line) > WAITING_MAX_BYTES:
                self.dropped += 1
                self._mark(1, at=len(self._waiting))
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._changed.notify()

    def close(self) -> None:
        """Writes what waits, for at most `CLOSE_SECONDS` seconds, and closes the file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _mark(self, count: int, *, at: int) -> None:
        """Notes lost lines among those that wait, in one entry with others lost just before."""
        last = self._waiting[at - 1] if at else None
        if isinstance(last, int):
            self._waiting[at - 1] = last + count
        else:
            self._waiting.insert(at, count)

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting_bytes > 0 or self._closing)
                entries, self._waiting, self._waiting_bytes = self._waiting, [], 0
                closing = self._closing
            written = self._append(entries)
            if written < len(entries):
                left = entries[written:]
                lines = sum(isinstance(entry, bytes) for entry in left)
                counted = sum(entry for entry in left if isinstance(entry, int))
                with self._changed:
                    self.dropped += lines
                    self._mark(lines + counted, at=0)
            if closing:
                os.close(self._file)
                return

    def _append(self, entries: list[bytes | int]) -> int:
        """Writes entries; returns how many of them are in the file whole."""
        data = b"".join(_line(entry) for entry in entries)
        if self._torn:
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("cannot write to %s: %s; calls go on", self._path, error.strerror)
        written = data.count(b"\n", 0, done) - self._torn * (done > 0)
        if done:
            self._torn = data[done - 1 : done] != b"\n"
        return written


def _line(entry: bytes | int) -> bytes:
    if isinstance(entry, int):
        entry = orjson.dumps({"is": "dropped", "count": entry})
    return entry if entry.endswith(b"\n") else entry + b"\n"
