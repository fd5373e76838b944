"""What tokens cost: told by the user, since price lists go out of date."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

INPUT_VARIABLE = "LLMD_AGENTS_PRICE_INPUT"
CACHED_VARIABLE = "LLMD_AGENTS_PRICE_CACHED"


class BadPrice(ValueError):
    """A price that is no price; the message says which and what is expected."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million input tokens.

    Attributes:
        input: of tokens that are computed.
        cached: of tokens that come from the cache; 0 where they cost nothing.
    """

    input: float
    cached: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("input", self.input), ("cached", self.cached)):
            if not (math.isfinite(value) and value >= 0):
                raise BadPrice(f"{name}: dollars per million tokens, 0 or more, not {value!r}")
        if self.cached > self.input:
            raise BadPrice(f"cached tokens at ${self.cached:g} cost more than others at ${self.input:g}")

    def of_recomputing(self, tokens: int) -> float:
        """Returns the dollars that it costs more to compute these tokens than to have them cached."""
        return tokens * (self.input - self.cached) / 1e6


class Prices:
    """One price for all models, or one per model, or both (a model's own price goes first).

        Prices(input=2.5, cached=0.25)
        Prices(models={"small": Price(0.25, 0.025)})

    Raises:
        BadPrice: if a price is negative, not finite, or `cached` is given without `input` or above it.
    """

    def __init__(
        self,
        input: float | None = None,  # noqa: A002  (what everyone calls it)
        cached: float | None = None,
        *,
        models: Mapping[str, Price] | None = None,
    ) -> None:
        if input is None and cached is not None:
            raise BadPrice("a price of cached tokens needs the price of input tokens beside it")
        self._any = None if input is None else Price(input, cached or 0.0)
        self._models = dict(models or {})

    def of(self, model: str) -> Price | None:
        return self._models.get(model, self._any)

    def of_recomputing(self, model: str, tokens: int) -> float | None:
        """Returns dollars as `Price.of_recomputing` does; None if this model's price is not known."""
        price = self.of(model)
        return None if price is None else price.of_recomputing(tokens)


def parse_prices(inputs: Iterable[str], cached: Iterable[str]) -> Prices:
    """Reads prices as they are given on a command line: `2.5`, or `some-model=2.5` for one model.

    Raises:
        BadPrice: if one cannot be read.
    """
    of_input, of_cached = _by_model(inputs), _by_model(cached)
    if stray := set(of_cached) - set(of_input):
        of = f" of {name}" if (name := min(stray)) else ""
        raise BadPrice(f"a price of cached tokens{of} needs the price of input tokens beside it")
    models = {name: Price(value, of_cached.get(name, 0.0)) for name, value in of_input.items() if name}
    return Prices(of_input.get(""), of_cached.get(""), models=models)


def prices_from_environment(environment: Mapping[str, str] = os.environ) -> Prices:
    """Reads `LLMD_AGENTS_PRICE_INPUT` and `LLMD_AGENTS_PRICE_CACHED`: prices as above, separated by commas.

    Raises:
        BadPrice: if one cannot be read.
    """
    inputs, cached = (
        [part for part in environment.get(name, "").split(",") if part.strip()]
        for name in (INPUT_VARIABLE, CACHED_VARIABLE)
    )
    return parse_prices(inputs, cached)


def _by_model(texts: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name.strip()] = float(number.strip().removeprefix("$"))
        except ValueError:
            raise BadPrice(
                f"{text!r} is no price: dollars per million tokens (2.5), or MODEL=DOLLARS"
            ) from None
    return found
