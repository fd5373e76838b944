from collections.abc import Mapping

from llmd_agents.hints.dependencies import ForkEnds, dependencies


def waits(
    parents: Mapping[str, tuple[str, ...]], forks: Mapping[str, ForkEnds], lookups_max: int = 1000
) -> dict[str, list[str]]:
    return dependencies(parents, lambda _, fork: forks.get(fork), lookups_max=lookups_max)


def test_a_fork_stands_for_the_last_steps_of_its_branches() -> None:
    forks = {"f1": ForkEnds(last=["s2", "f2"], parents=["s1"]), "f2": ForkEnds(last=["s3"], parents=["s1"])}
    parents = {"s1": (), "s2": ("s1",), "s3": ("s1",), "s4": ("f1", "nowhere")}
    assert waits(parents, forks) == {"s1": [], "s2": ["s1"], "s3": ["s1"], "s4": ["s2", "s3"]}


def test_what_a_fork_stands_for_may_depend_on_who_waits() -> None:
    found = dependencies(
        {"s1": (), "s2": (), "all": ("f1",), "any": ("f1",)},
        lambda step, _: ForkEnds(["s1", "s2"] if step == "all" else ["s2"], []),
    )
    assert (found["all"], found["any"]) == (["s1", "s2"], ["s2"])


def test_a_fork_without_steps_leaves_what_it_started_from() -> None:
    forks = {"f1": ForkEnds([], ["s1"]), "f2": ForkEnds(["f3"], ["f1"]), "f3": ForkEnds([], ["f1"])}
    assert waits({"s1": (), "s2": ("f2",)}, forks)["s2"] == ["s1"]


def test_but_not_if_others_waited_for_that() -> None:
    nothing = ForkEnds([], ["s1"])
    within = {"f1": ForkEnds(["f2", "s3"], ["s1"]), "f2": nothing}
    parents = {"s1": (), "s2": ("s1",), "s3": ("s2",), "s4": ("f1",)}
    assert waits(parents, within)["s4"] == ["s3"]
    beside = {"s1": (), "s2": ("s1",), "s3": ("s2",), "s4": ("f2", "s3")}
    assert waits(beside, {"f2": nothing})["s4"] == ["s3"]
    apart = {"s1": (), "s2": (), "s3": ("s2",), "s4": ("f2", "s3")}
    assert waits(apart, {"f2": nothing})["s4"] == ["s1", "s3"]


def test_what_is_named_itself_stays() -> None:
    parents = {"s1": (), "s2": ("s1",), "s3": ("f1", "s1", "s2")}
    assert waits(parents, {"f1": ForkEnds([], ["s1"])})["s3"] == ["s1", "s2"]


def test_circles_end() -> None:
    forks = {"f1": ForkEnds(["f2"], ["f1"]), "f2": ForkEnds([], ["f1", "s1", "s2"])}
    assert waits({"s1": ("s2",), "s2": ("s1",), "s3": ("f1", "f2")}, forks)["s3"] == []


def test_no_more_lookups_than_are_allowed() -> None:
    parents = {f"s{number}": (f"s{number - 1}",) for number in range(100)}
    found = waits(parents, {}, lookups_max=10)
    assert sum(map(len, found.values())) == 9
    assert list(found) == list(parents)
