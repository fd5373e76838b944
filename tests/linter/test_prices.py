"""Prices as they are configured."""

import math

import pytest

from llmd_agents.linter import BadPrice, Price, Prices, parse_prices, prices_from_environment


def test_what_recomputing_costs() -> None:
    prices = Prices(2.5, 0.25, models={"small": Price(0.4, 0.1)})
    assert prices.of_recomputing("any", 1_000_000) == pytest.approx(2.25)
    assert prices.of_recomputing("small", 1_000_000) == pytest.approx(0.3)
    assert Prices().of_recomputing("any", 1000) is None
    assert Prices(models={"small": Price(1)}).of_recomputing("any", 1000) is None


@pytest.mark.parametrize(
    ("inputs", "cached", "expected"),
    [
        (["2.5"], [], Price(2.5)),
        (["$2.5"], ["0.25"], Price(2.5, 0.25)),
        (["9", "m=3"], ["1", "m=0.5"], Price(3, 0.5)),
        (["other=3"], [], None),
        ([], [], None),
    ],
)
def test_prices_of_a_command_line(inputs: list[str], cached: list[str], expected: Price | None) -> None:
    assert parse_prices(inputs, cached).of("m") == expected


@pytest.mark.parametrize(
    ("inputs", "cached", "message"),
    [
        (["much"], [], "'much' is no price"),
        (["m="], [], "'m=' is no price"),
        ([""], [], "'' is no price"),
        (["-1"], [], "input: dollars per million tokens, 0 or more, not -1.0"),
        (["nan"], [], "not nan"),
        (["inf"], [], "not inf"),
        (["1"], ["2"], "cached tokens at $2 cost more than others at $1"),
        ([], ["1"], "a price of cached tokens needs the price of input tokens beside it"),
        (["1"], ["m=1"], "a price of cached tokens of m needs"),
    ],
)
def test_what_is_no_price_is_refused(inputs: list[str], cached: list[str], message: str) -> None:
    with pytest.raises(BadPrice) as refused:
        parse_prices(inputs, cached)
    assert message in str(refused.value)


def test_prices_of_the_environment() -> None:
    given = {"LLMD_AGENTS_PRICE_INPUT": "2.5, m=1", "LLMD_AGENTS_PRICE_CACHED": "0.25"}
    prices = prices_from_environment(given)
    assert (prices.of("any"), prices.of("m")) == (Price(2.5, 0.25), Price(1))
    assert prices_from_environment({}).of("any") is None
    with pytest.raises(BadPrice):
        prices_from_environment({"LLMD_AGENTS_PRICE_INPUT": "cheap"})


def test_prices_in_code() -> None:
    with pytest.raises(BadPrice):
        Prices(cached=0.1)
    with pytest.raises(BadPrice):
        Price(math.nan)
