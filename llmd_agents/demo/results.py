"""What the demo found: medians over the seeds, for each program and pressure, by arm."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from llmd_agents.hints.directives import DIRECTIVE_TYPES

from .arms import ARMS
from .trial import RESULTS, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .scenario import Scenario
    from .trial import Trial


@dataclass(frozen=True, slots=True)
class Row:
    """One program under one pressure.

    Attributes:
        outcomes: by arm, then by seed.
    """

    program: str
    pressure: float
    outcomes: Mapping[str, Mapping[int, Outcome]]

    @property
    def seeds(self) -> list[int]:
        return sorted(self.outcomes["hinted"])

    def median(self, arm: str) -> Outcome:
        """Returns the medians of all that was measured under one arm, each for itself."""
        outcomes = list(self.outcomes[arm].values())
        steps = [item.background_step_s for item in outcomes if item.background_step_s is not None]
        return Outcome(
            completion_s=median(item.completion_s for item in outcomes),
            prompt_tokens=_whole(item.prompt_tokens for item in outcomes),
            cached_tokens=_whole(item.cached_tokens for item in outcomes),
            recomputed_tokens=_whole(item.recomputed_tokens for item in outcomes),
            join_stall_s=median(item.join_stall_s for item in outcomes),
            calls=_whole(item.calls for item in outcomes),
            modelled_s=median(item.modelled_s for item in outcomes),
            live_pressure=median(item.live_pressure for item in outcomes),
            background_step_s=median(steps) if steps else None,
            directives={
                kind: {
                    result: _whole(item.directives.get(kind, {}).get(result, 0) for item in outcomes)
                    for result in RESULTS
                }
                for kind in DIRECTIVE_TYPES
            },
            copies=_both(item.copies for item in outcomes),
            loads=_both(item.loads for item in outcomes),
        )

    def faster(self) -> int:
        """Returns in how many seeds the program was done sooner with hints than without, at their best."""
        hinted, without = self.outcomes["hinted"], self.outcomes["strongest_unhinted"]
        return sum(hinted[seed].completion_s < without[seed].completion_s for seed in hinted)


def gather(trials: Sequence[Trial], outcomes: Sequence[Mapping[str, Outcome]]) -> list[Row]:
    """Returns the rows that trials of all arms give, in the order of the trials."""
    rows: dict[tuple[float, str], dict[str, dict[int, Outcome]]] = {}
    for trial, by_program in zip(trials, outcomes, strict=True):
        for program, outcome in by_program.items():
            by_arm = rows.setdefault((trial.pressure, program), {arm: {} for arm in ARMS})
            by_arm[trial.arm][trial.seed] = outcome
    return [Row(program, pressure, by_arm) for (pressure, program), by_arm in rows.items()]


def as_json(rows: Sequence[Row], scenario: Scenario) -> dict[str, Any]:
    """Returns the documented JSON form: medians, then what they are the medians of, and the scenario."""
    return {
        "programs": [
            {
                "name": row.program,
                "pressure": row.pressure,
                "seeds": len(row.seeds),
                "faster_in_seeds": row.faster(),
                **{arm: _shown(arm, row.median(arm)) for arm in ARMS},
            }
            for row in rows
        ],
        "runs": [
            {
                "name": row.program,
                "pressure": row.pressure,
                "seed": seed,
                "arm": arm,
                **_shown(arm, row.outcomes[arm][seed]),
            }
            for row in rows
            for arm in ARMS
            for seed in row.seeds
        ],
        "scenario": scenario.model_dump(mode="json"),
    }


def _shown(arm: str, outcome: Outcome) -> dict[str, Any]:
    values = asdict(outcome)
    for name in ("copies", "loads"):
        count, tokens = values.pop(name)
        values[name] = {"contexts": count, "tokens": tokens}
    if not ARMS[arm].hints:
        for name in ("directives", "copies", "loads"):
            del values[name]
    return values


def _whole(values: Iterable[int]) -> int:
    return round(median(values))


def _both(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*pairs, strict=True)
    return _whole(first), _whole(second)
