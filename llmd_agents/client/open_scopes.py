"""The scopes that an adapter has opened, by the ids that its framework gives them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from .guard import guard

if TYPE_CHECKING:
    from collections.abc import Hashable

    from llmd_agents.hints import Outcome

    from .scope import Scope

OPEN_MAX: Final = 16_384


class OpenScopes:
    """Of more than `OPEN_MAX` scopes, those opened longest ago are given up: their end was never told."""

    def __init__(self) -> None:
        self._open: OrderedDict[Hashable, Scope] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: Hashable) -> Scope | None:
        """Returns the scope of an id; None if it is not known, or over."""
        return self._open.get(key)

    def put(self, key: Hashable, scope: Scope) -> None:
        with guard:
            self._open[key] = scope
            given_up = self._open.popitem(last=False)[1] if len(self._open) > OPEN_MAX else None
        if given_up is not None:
            given_up.end("abandoned")

    def end(self, key: Hashable, outcome: Outcome = "ok") -> None:
        """Ends the scope of an id, if there is one."""
        scope = self._open.pop(key, None)
        if scope is not None:
            scope.end(outcome)
