"""The trials' results: a file that is added to, trial by trial, and can be gone on with."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from .effect_trial import Result, Setup, Trial


class OtherSetup(ValueError):
    """The file holds trials that cannot be compared with the ones to come; says where they differ."""


def read_results(path: Path, setup: Setup) -> dict[Trial, Result]:
    """Returns what a file holds; nothing where there is none. A line that was cut short is left out.

    Raises:
        OtherSetup: if its trials had another setup.
        OSError: if it cannot be read.
    """
    found: dict[Trial, Result] = {}
    if not path.exists():
        return found
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            value = json.loads(line)
            trial, result = Trial(**value["trial"]), Result.of_json(value["result"])
        except (ValueError, KeyError, TypeError):
            continue
        if value["setup"] != asdict(setup):
            raise OtherSetup(f"{path}:{number}: made with {value['setup']}, not with {asdict(setup)}")
        found[trial] = result
    return found


def add_result(path: Path, setup: Setup, trial: Trial, result: Result) -> None:
    """Adds a line, after whatever the file ends with.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"trial": asdict(trial), "setup": asdict(setup), "result": result.as_json()})
    cut_short = path.exists() and (text := path.read_bytes()) and not text.endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if cut_short else "") + line + "\n")


def as_json(results: Mapping[Trial, Result], setup: Setup) -> str:
    """Returns all results as one JSON object."""
    trials = [{**asdict(trial), **results[trial].as_json()} for trial in sorted(results)]
    return json.dumps({"setup": asdict(setup), "trials": trials}, indent=1)
