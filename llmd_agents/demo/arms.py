"""The arms: what the demo compares, all on the same fleet under the same load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmd_agents.engine import (
    ByNextUse,
    CachedFirst,
    EngineCore,
    LeastRecentlyUsed,
    first_come_first_served,
)
from llmd_agents.runtime import Mode, Runtime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmd_agents.engine import EngineProfile


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of serving.

    Attributes:
        title: for people.
        placement: see `Runtime`.
        cached_first: whether engines serve first what is cached, and keep what is waited for; else they
            serve in order of arrival.
        hints: whether clients declare, engines evict by next use and the runtime issues directives.
    """

    title: str
    placement: str
    cached_first: bool = False
    hints: bool = False

    def runtime(self, engines: Iterable[str]) -> Runtime:
        return Runtime(engines, placement=self.placement, mode=Mode.ACT if self.hints else Mode.OFF)

    def core(self, profile: EngineProfile, aging_s: float) -> EngineCore:
        return EngineCore(
            profile,
            eviction=ByNextUse() if self.hints else LeastRecentlyUsed(),
            dispatch=CachedFirst(aging_s=aging_s) if self.cached_first else first_come_first_served,
            protect_waiting=self.cached_first,
        )


ARMS: Final = {
    "round_robin": Arm("round robin", "round_robin"),
    "prefix_aware": Arm("prefix-aware", "prefix_aware"),
    "strongest_unhinted": Arm("strongest, no hints", "load_and_affinity", cached_first=True),
    "hinted": Arm("with hints", "load_and_affinity", cached_first=True, hints=True),
}
