import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmd_agents.router import BadConfig, EngineConfig, Router, RouterConfig, record
from llmd_agents.router.record import RecordFile


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_lines_are_added_to_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    for number in range(2):
        file = RecordFile(path)
        file.start()
        for more in range(3):
            file.write(b'{"n":%d}' % (number * 3 + more) + b"\n" * (more % 2))
        file.close()
        file.close()
    assert lines(path) == [{"n": number} for number in range(6)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_slow_disk_cannot_take_is_counted_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "WAITING_MAX_BYTES", 10)
    path = tmp_path / "record.jsonl"
    file = RecordFile(path)
    for number in range(10):
        file.write(b"[%d]" % number)
    file.start()
    file.close()
    assert lines(path) == [[0], [1], [2], {"is": "dropped", "count": 7}]
    assert file.dropped == 7


def test_a_full_disk_is_warned_of_once_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "record.jsonl"
    room = 10
    tried = threading.Semaphore(0)
    write = os.write

    def limited(file: int, data: bytes) -> int:
        nonlocal room
        part = data[:room]
        tried.release()
        if not part:
            raise OSError(28, "No space left on device")
        room -= len(part)
        return write(file, part)

    monkeypatch.setattr(os, "write", limited)
    file = RecordFile(path)
    file.write(b"[1]")
    file.write(b"[2]")
    file.write(b'["cut short"]')
    file.start()
    for _ in range(2):
        assert tried.acquire(timeout=10)
    file.write(b"[4]")
    assert tried.acquire(timeout=10)
    while file.dropped < 2:
        time.sleep(0.001)
    room = 1000
    file.write(b"[5]")
    file.close()
    texts = path.read_text().splitlines()
    assert texts == ["[1]", "[2]", '["', '{"is":"dropped","count":2}', "[5]"]
    assert [entry.message for entry in caplog.records] == [
        f"cannot write to {path}: No space left on device; calls go on"
    ]


def test_a_file_that_cannot_be_opened_is_bad_configuration(tmp_path: Path) -> None:
    config = RouterConfig(engines=(EngineConfig(url="http://x"),), record=tmp_path / "no" / "record.jsonl")
    with pytest.raises(BadConfig, match=r"record: .*record\.jsonl: No such file or directory"):
        Router(config)
