"""The check passes on the installed vLLM, and names what an altered one lacks."""

import importlib
import logging
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmd_agents_vllm import startup_check
from llmd_agents_vllm.startup_check import (
    MODE_VARIABLE,
    NEEDS,
    BadMode,
    Calls,
    Has,
    Mismatch,
    OnMismatch,
    Overrides,
    Part,
    Problem,
    check,
    misfits,
    mode_of,
    usable,
)


@pytest.mark.parametrize("part", Part)
def test_every_part_fits_the_installed_vllm(part: Part, caplog: pytest.LogCaptureFixture) -> None:
    assert check(part) is None
    assert usable(part, OnMismatch.REFUSE)
    assert [record for record in caplog.records if record.name == startup_check.log.name] == []


def test_every_part_has_a_table() -> None:
    assert set(NEEDS) == set(Part)
    assert all(NEEDS.values())


class Pool:
    kind = "pool"
    declared: int

    def __init__(self) -> None:
        self.blocks: list[int] = []
        other: Any = SimpleNamespace()
        other.elsewhere = 1

    def touch(self, blocks: list[int], *, count: bool = True) -> None: ...

    @staticmethod
    def name(of: int) -> str:
        return str(of)

    @classmethod
    def make(cls, size: int, *rest: int, **more: int) -> "Pool":
        return cls()


class SubPool(Pool):
    pass


def stand_in(name: str) -> Any:
    if name != "pool":
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return SimpleNamespace(Pool=Pool, SubPool=SubPool, function=lambda a, b=1: None)


@pytest.mark.parametrize(
    "need",
    [
        Has("pool:Pool"),
        Has("pool:Pool.kind"),
        Has("pool:Pool.declared"),
        Has("pool:SubPool.blocks"),
        Calls("pool:Pool.touch", ("blocks",)),
        Overrides("pool:SubPool.touch", ("blocks", "count")),
        Calls("pool:Pool.name", ("of",)),
        Calls("pool:Pool.make", ("size",)),
        Calls("pool:function", ("a",)),
        Calls("pool:function", ("a", "b")),
    ],
    ids=str,
)
def test_what_fits(need: Any) -> None:
    assert list(misfits([need], stand_in)) == []


@pytest.mark.parametrize(
    ("need", "problem"),
    [
        (Has("gone:Pool"), "gone cannot be imported (No module named 'gone')"),
        (Has("pool:Gone.blocks"), "pool has no Gone"),
        (Has("pool:Pool.gone"), "pool has no Pool.gone"),
        (Calls("pool:Pool.gone", ("a",)), "pool has no Pool.gone"),
        (Calls("pool:Pool.kind"), "pool:Pool.kind is no function"),
        (Calls("pool:Pool.touch", ("block",)), "Pool.touch takes (blocks, count), not (block)"),
        (Calls("pool:Pool.touch"), "Pool.touch takes (blocks, count), not ()"),
        (Overrides("pool:Pool.touch", ("blocks",)), "Pool.touch takes (blocks, count), not (blocks)"),
        (Calls("pool:function", ("b", "a")), "function takes (a, b), not (b, a)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(need: Any, problem: str) -> None:
    assert list(misfits([need, Has("pool:Pool")], stand_in)) == [problem]


def altered_vllm(name: str) -> Any:
    """The installed vLLM, with a block pool that lost a method and has another one changed."""
    module = importlib.import_module(name)
    if name != "vllm.v1.core.block_pool":
        return module

    class BlockPool(module.BlockPool):  # type: ignore[name-defined]
        def get_cached_block(self, block_hash: bytes, group: int, strict: bool) -> None: ...

    altered = ModuleType(name)
    altered.__dict__.update(BlockPool=BlockPool, BlockHashToBlockMap=SimpleNamespace())
    return altered


def test_an_altered_vllm_is_a_problem_of_the_parts_that_use_it() -> None:
    scheduler = check(Part.SCHEDULER, import_module=altered_vllm)
    assert scheduler is not None
    assert scheduler.missing == (
        "BlockPool.get_cached_block takes (block_hash, group, strict), not (block_hash, kv_cache_group_ids)",
    )
    connector = check(Part.CONNECTOR, import_module=altered_vllm)
    assert connector is not None
    assert connector.missing == (
        "vllm.v1.core.block_pool has no BlockHashToBlockMap.get_one_block",
        "vllm.v1.core.block_pool has no BlockHashToBlockMap.__len__",
    )
    assert check(Part.OFFLOAD, import_module=altered_vllm) is None


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup_check, "NEEDS", {Part.CONNECTOR: (Has("vllm.gone:A"), Has("vllm:gone"))})
    monkeypatch.setattr(startup_check, "_version", lambda: "0.40.1")
    monkeypatch.delenv(MODE_VARIABLE, raising=False)


LINE = (
    "vLLM 0.40.1 does not fit the connector of llmd-agents: "
    "vllm.gone cannot be imported (No module named 'vllm.gone'); vllm has no gone"
)


@pytest.mark.usefixtures("_broken")
def test_by_default_the_part_stays_off_and_one_line_says_why(caplog: pytest.LogCaptureFixture) -> None:
    assert not usable(Part.CONNECTOR)
    assert [record.getMessage() for record in caplog.records] == [
        f"{LINE}. It stays off; the engine runs without it"
    ]


@pytest.mark.usefixtures("_broken")
def test_refuse_raises_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "refuse")
    with pytest.raises(Mismatch) as error:
        usable(Part.CONNECTOR)
    assert str(error.value) == LINE


def test_a_bad_mode_is_an_error_even_where_all_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "ignore")
    with pytest.raises(BadMode, match="LLMD_AGENTS_ON_MISMATCH must be disable or refuse, not 'ignore'"):
        usable(Part.SCHEDULER)


@pytest.mark.parametrize("value", ["", " ", "disable", " disable "])
def test_disable_is_the_default(value: str) -> None:
    assert mode_of({}) == mode_of({MODE_VARIABLE: value}) == OnMismatch.DISABLE


def test_an_untested_version_that_fits_is_used_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(startup_check, "_version", lambda: "0.33.0")
    with caplog.at_level(logging.WARNING):
        assert usable(Part.SCHEDULER, OnMismatch.REFUSE)
    assert caplog.messages == ["The scheduler of llmd-agents fits vLLM 0.33.0, but was not tested with it"]


def test_a_problem_is_one_line() -> None:
    assert "\n" not in str(Problem(Part.OFFLOAD, "1", ("a", "b")))
