"""The table of what hints change on real engines, in Markdown: medians over the seeds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from .effect_trial import Result, Trial
from .fleet_arms import ARMS
from .programs import PROGRAMS

BEGIN: Final = "<!-- results -->"
END: Final = "<!-- end of results -->"

_Measure = Callable[[Result], float]


def _program_sum(name: str) -> _Measure:
    return lambda result: sum(getattr(one, name) for one in result.programs.values())


def _source(name: str) -> _Measure:
    return lambda result: result.cached_by_source.get(name, 0) / max(result.prompt_tokens, 1)


def _cached_of_programs(result: Result) -> float:
    return _program_sum("cached_tokens")(result) / max(_program_sum("prompt_tokens")(result), 1)


def _cached_of_all(result: Result) -> float:
    return sum(result.cached_by_source.values()) / max(result.prompt_tokens, 1)


def _cached_of_background(result: Result) -> float:
    return result.background_cached_tokens / max(result.background_prompt_tokens, 1)


def _computed_of_all(result: Result) -> float:
    return result.prompt_tokens - sum(result.cached_by_source.values())


def _computed_of_programs(result: Result) -> float:
    return _program_sum("prompt_tokens")(result) - _program_sum("cached_tokens")(result)


def _applied(result: Result) -> float:
    return sum(counts.get("applied", 0) + counts.get("clipped", 0) for counts in result.directives.values())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


_TOKENS: Final[dict[str, tuple[_Measure, Callable[[float], str]]]] = {
    "from cache, programs": (_cached_of_programs, _percent),
    "of the background": (_cached_of_background, _percent),
    "of all": (_cached_of_all, _percent),
    "device": (_source("device"), _percent),
    "host": (_source("host"), _percent),
    "computed, programs": (_computed_of_programs, _whole),
    "computed again": (_program_sum("computed_again"), _whole),
    "computed, all": (_computed_of_all, _whole),
    "preemptions": (lambda result: result.preemptions, _whole),
    "directives": (_applied, _whole),
}


def markdown(results: Mapping[Trial, Result]) -> str:
    """Returns, for each pressure, a table of tokens and one of seconds; a row for each arm that was run."""
    parts: list[str] = []
    for pressure in sorted({trial.pressure for trial in results}):
        by_arm = {arm: _results(results, arm, pressure) for arm in ARMS}
        shown = {arm: found for arm, found in by_arm.items() if found}
        counts = sorted({len(found) for found in shown.values()})
        seeds = " to ".join(map(str, sorted({counts[0], counts[-1]})))
        parts.append(f"### Pressure {pressure:g}\n\nMedians of {seeds} {'run' if seeds == '1' else 'runs'}.")
        first, *others = _TOKENS
        parts.append(
            _table(["arm", first, "from–to", *others], [_tokens(arm, found) for arm, found in shown.items()])
        )
        columns = [
            "arm",
            *(f"{name}, s" for name in PROGRAMS),
            "a call of the background, s",
            "calls of the background",
        ]
        parts.append(_table(columns, [_seconds(arm, found) for arm, found in shown.items()]))
    return "\n\n".join(parts) + "\n"


def put_into(path: Path, text: str) -> None:
    """Writes a text between the marks in a file, or as the file if it has none or is not there.

    Raises:
        OSError: if it cannot be read or written.
    """
    old = path.read_text() if path.exists() else ""
    if BEGIN in old and END in old:
        head, _, rest = old.partition(BEGIN)
        text = f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"
    path.write_text(text)


def _results(results: Mapping[Trial, Result], arm: str, pressure: float) -> list[Result]:
    return [one for trial, one in results.items() if (trial.arm, trial.pressure) == (arm, pressure)]


def _tokens(arm: str, found: Sequence[Result]) -> list[str]:
    medians = [shown(median(measure(one) for one in found)) for measure, shown in _TOKENS.values()]
    shares = [100 * _cached_of_programs(one) for one in found]
    return [ARMS[arm].title, medians[0], f"{min(shares):.0f}–{max(shares):.0f} %", *medians[1:]]


def _seconds(arm: str, found: Sequence[Result]) -> list[str]:
    completions = [median(one.programs[name].completion_s for one in found) for name in PROGRAMS]
    took = median(one.background_call_s for one in found)
    calls = median(one.background_calls for one in found)
    return [ARMS[arm].title, *(f"{one:.1f}" for one in completions), f"{took:.2f}", _whole(calls)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
