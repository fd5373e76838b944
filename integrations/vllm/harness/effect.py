"""`python -m harness.effect`: what hints change on real vLLM engines with small caches.

Every trial is written down when it is done; started again with the same file, it goes on with those that are
missing.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import openai

from llmd_agents.bench.coding_sessions import BadTrace
from llmd_agents.demo.fleet import FleetError

from .background_sessions import ScaledSession, scaled_sessions
from .effect_report import markdown, put_into
from .effect_results import OtherSetup, add_result, as_json, read_results
from .effect_trial import Result, Setup, Trial, run_trial
from .engines import EngineFailed
from .fleet import NotReset, arm_engines
from .fleet_arms import ARMS
from .tiny_model import kept_model

PRESSURES: Final = (1.2, 2.0, 3.0)
SEEDS: Final = 5
TRACES: Final = Path(__file__).parents[4] / "shared" / "traces" / "claude-code"
ATTEMPTS: Final = 2

_ROOM_TOKENS: Final = 256
"""Left free of a prompt by a session, for what its messages need beside their text."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    setup = Setup(engines=options.engines)
    pressures = options.pressure or ([2.0] if options.quick else list(PRESSURES))
    seeds = options.seeds or (1 if options.quick else SEEDS)
    wanted = [
        Trial(arm, pressure, seed)
        for arm in options.arms or ARMS
        for pressure in pressures
        for seed in range(1, seeds + 1)
    ]
    try:
        sessions = scaled_sessions(options.traces, setup.size.max_model_len - _ROOM_TOKENS)
        if not sessions:
            print(f"{options.traces}: no recorded sessions; name their folder with --traces", file=sys.stderr)
            return 2
        results = read_results(options.results, setup)
    except (BadTrace, OtherSetup, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        _run(wanted, results, setup, sessions, options.results)
    except KeyboardInterrupt:
        _say("stopped; all engines have ended, and what was measured is kept")
        return 130
    except EngineFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        _report(results, setup, options)
    missing = [trial for trial in wanted if trial not in results]
    for trial in missing:
        _say(f"missing: {trial}")
    return 1 if missing else 0


def _run(
    wanted: Sequence[Trial],
    results: dict[Trial, Result],
    setup: Setup,
    sessions: Sequence[ScaledSession],
    path: Path,
) -> None:
    """Runs what is missing, arm by arm, since engines take long to start.

    Raises:
        EngineFailed: if engines do not start.
    """
    path = path.resolve()
    attempts: dict[Trial, int] = {}
    starts: dict[str, int] = {}
    while todo := [trial for trial in wanted if trial not in results and attempts.get(trial, 0) < ATTEMPTS]:
        name = todo[0].arm
        ours = [trial for trial in todo if trial.arm == name]
        starts[name] = starts.get(name, 0) + 1
        model = kept_model(Path(sys.prefix))
        folder = path.with_name(f"{path.name}-logs") / f"{name}-{starts[name]}"
        _say(f"{name}: starting {setup.engines} engines (about a minute; logs in {folder})")
        with arm_engines(model, folder, ARMS[name], setup.size, setup.engines) as started:
            for trial in ours:
                attempts[trial] = attempts.get(trial, 0) + 1
                began = time.monotonic()
                try:
                    result = run_trial(started, folder, ARMS[name], trial, setup, sessions)
                except (NotReset, FleetError, openai.OpenAIError, ExceptionGroup) as error:
                    # Whatever it was, engines that begin anew have nothing left of it.
                    _say(f"{trial} failed: {error!r}")
                    break
                add_result(path, setup, trial, result)
                results[trial] = result
                left = sum(trial not in results for trial in wanted)
                _say(f"{_line(trial, result)}; {time.monotonic() - began:.0f} s, {left} trials left")


def _line(trial: Trial, result: Result) -> str:
    prompt = sum(one.prompt_tokens for one in result.programs.values())
    cached = sum(one.cached_tokens for one in result.programs.values())
    overall = sum(result.cached_by_source.values()) / max(result.prompt_tokens, 1)
    return (
        f"{trial.arm} at {trial.pressure:g}, seed {trial.seed}: from cache {cached / max(prompt, 1):.1%} of "
        f"the programs, {overall:.1%} of all"
    )


def _report(results: dict[Trial, Result], setup: Setup, options: argparse.Namespace) -> None:
    if options.json is not None:
        options.json.write_text(as_json(results, setup) + "\n")
    table = markdown(results)
    if options.markdown is not None:
        put_into(options.markdown, table)
    print(f"\n{table}", flush=True)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make vllm-effect", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="file that trials are added to")
    parser.add_argument("--pressure", type=_positive, action="append", help="repeat for more (1.2, 2 and 3)")
    parser.add_argument("--seeds", type=_count, help=f"how many, from 1 on ({SEEDS})")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="all of them by default")
    parser.add_argument("--quick", action="store_true", help="pressure 2 and one seed, if not given")
    parser.add_argument("--engines", type=_count, default=Setup.engines, help=f"({Setup.engines})")
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of recorded coding sessions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results as one object")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, between its marks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
