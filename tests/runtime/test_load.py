"""Work that an engine has from elsewhere, and what it changes."""

import pytest

from llmd_agents.hints import Forecast, Next, chain
from llmd_agents.runtime import Arrival, EngineLoad, Journal, Runtime, engines_view, redecide
from llmd_agents.runtime.load import Others
from tests.runtime.test_advice import LONG, Story


def load(running: int = 0, waiting: int = 0, *, ours: int = 0, every_s: float = 1.0) -> EngineLoad:
    return EngineLoad(running, waiting, 0.5, ours, every_s)


@pytest.mark.parametrize(
    ("told", "others"),
    [
        (load(4, 2), Others(6, 2)),
        (load(4, 2, ours=4), Others(2, 2)),
        (load(4, 2, ours=5), Others(1, 1)),
        (load(4, 2, ours=9), Others(0, 0)),
        (load(0, 0, ours=3), Others(0, 0)),
    ],
)
def test_only_what_is_beyond_its_own_calls_is_others(told: EngineLoad, others: Others) -> None:
    assert told.others(0.0) == others


def test_a_reading_counts_until_the_next_is_due_and_fades_after_that() -> None:
    told = load(8, 4, every_s=2.0)
    ages = (0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9)
    assert [told.others(age) for age in ages] == [
        Others(12, 4), Others(12, 4), Others(9, 3), Others(6, 2), Others(3, 1), Others(0, 0), Others(0, 0)
    ]  # fmt: skip
    assert told.others(-1000.0) == Others(12, 4)  # the clock was set


def plain(text: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def place(runtime: Runtime, number: int, at: float) -> str:
    return runtime.arrive(Arrival("default", 100, at, links=chain(plain(f"call {number}")))).ranking[0]


def test_calls_go_where_less_is_under_way_whoever_sent_it() -> None:
    runtime = Runtime(["a", "b"])
    assert {place(runtime, number, 0.0) for number in range(20)} == {"a", "b"}
    runtime.engine_load("a", load(3), 10.0)
    assert {place(runtime, number, 10.5) for number in range(20)} == {"b"}
    runtime.engine_load("b", load(1, 5), 10.6)
    assert {place(runtime, number, 10.7) for number in range(20)} == {"a"}
    # Nobody has told anything for long: as if nothing had ever been told.
    assert {place(runtime, number, 20.0) for number in range(20)} == {"a", "b"}


def test_context_outweighs_a_little_load_and_not_much_of_it() -> None:
    runtime = Runtime(["a", "b"])
    links = chain(plain("x" * 20_000))
    call = runtime.arrive(Arrival("default", 20_000, 0.0, links=links))
    home = call.ranking[0]
    runtime.dispatched(call, home, 0.0)
    runtime.finished(call, None, 1.0)

    def goes() -> str:
        return runtime.arrive(Arrival("default", 20_000, 1.0, links=links)).ranking[0]

    runtime.engine_load(home, load(3), 1.0)
    assert goes() == home
    runtime.engine_load(home, load(8), 1.0)
    assert goes() != home


def test_an_engine_that_went_down_has_told_nothing() -> None:
    runtime = Runtime(["a", "b"])
    runtime.engine_load("a", load(9), 0.0)
    runtime.engine_down("a", 0.1)
    runtime.engine_up("a", 0.2)
    assert runtime.engines["a"].load is None
    assert engines_view(runtime)[0]["load"] is None


def test_a_fork_is_planned_around_what_others_do() -> None:
    def used(busy: int) -> set[str]:
        story = Story("a", "b", "c")
        story.start()
        if busy:
            story.runtime.engine_load("c", load(busy, busy), story.at)
        story.step("s1", [LONG], engine="a", forecast=Forecast(next=Next.FORK, fan_out=30))
        plan = next(iter(story.runtime._tenants["default"].advice._programs["p"].expected.values()))
        return set(plan.engines)

    assert used(0) == {"a", "b", "c"}
    assert used(200) == {"a", "b"}


def test_the_view_tells_what_was_read() -> None:
    runtime = Runtime(["a"])
    assert engines_view(runtime)[0]["load"] is None
    runtime.engine_load("a", load(4, 2, ours=1), 7.0)
    assert engines_view(runtime)[0]["load"] == {
        "read_at": 7.0, "running": 4, "waiting": 2, "cache_usage": 0.5, "others": 5
    }  # fmt: skip


def test_a_recorded_run_decides_the_same_with_its_readings_and_otherwise_without() -> None:
    lines: list[bytes] = []
    runtime = Runtime(["a", "b", "c"], journal=Journal(lines.append))
    for number in range(60):
        at = number / 4
        if number % 7 == 0:
            runtime.engine_load("abc"[number % 3], load(number % 5, number % 4), at)
        runtime.dispatched(
            call := runtime.arrive(Arrival("default", 100, at, links=chain(plain(str(number))))),
            call.ranking[0],
            at,
        )
    assert redecide(lines).first_difference is None
    without = [line for line in lines if not line.startswith(b'{"is":"engine_load"')]
    assert len(without) == len(lines) - 9
    assert redecide(without).first_difference is not None
