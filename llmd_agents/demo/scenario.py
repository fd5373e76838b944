"""The scenario: the fleet and the load that every arm of the demo meets (`scenario.toml`)."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from importlib.resources import files
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmd_agents.bench.background import Background, draw_session
from llmd_agents.engine import EngineProfile, load_profile
from llmd_agents.hints.errors import first_problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llmd_agents.bench.background import Tool

Positive = Annotated[float, Field(gt=0)]

_SAMPLE = 300
"""Sessions drawn to find out what they are like in the mean."""


class BadScenario(ValueError):
    """The file is no scenario; the message is one line that names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FleetSize(_Section):
    """The fleet; sizes are each engine's."""

    engines: Annotated[int, Field(ge=1)]
    profile: str
    block_tokens: Annotated[int, Field(ge=1)]
    device_tokens: Annotated[int, Field(ge=1)]
    host_tokens: Annotated[int, Field(ge=0)]

    def engine_profile(self) -> EngineProfile:
        return dataclasses.replace(
            load_profile(self.profile),
            block_size=self.block_tokens,
            num_blocks=self.device_tokens // self.block_tokens + 1,
            host_blocks=self.host_tokens // self.block_tokens,
        )

    @property
    def tokens(self) -> int:
        """What all caches hold together."""
        return self.engines * (self.device_tokens + self.host_tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """How the background meets one pressure.

    Attributes:
        sessions: how many are open.
        task_turns: turns of a task, after which a person pauses.
        round_s: how long a task and the pause after it take in the mean, if every prefix is cached.
        busy: share of the engines' time that the turns' new tokens and replies take then.
    """

    sessions: int
    task_turns: int
    round_s: float
    busy: float


class Scenario(_Section):
    """Everything that is fixed before anything is measured. Times are in modelled seconds."""

    seeds: Annotated[int, Field(ge=1)]
    pressures: Annotated[tuple[Positive, ...], Field(min_length=1)]
    warm_up_s: Annotated[float, Field(ge=0)]
    aging_s: Positive
    fleet: FleetSize
    background: Background

    def load(self, pressure: float) -> Load:
        """Returns the load that makes the live context `pressure` times what the caches hold."""
        background = self.background
        profile = self.fleet.engine_profile()
        drawn = [draw_session(background, 0, place, 0, 1) for place in range(_SAMPLE)]
        contexts = [length for session in drawn for length in session.contexts(background)]
        heads = [background.head_tokens[session.workflow] for session in drawn for _ in session.turns]
        turns = [turn for session in drawn for turn in session.turns]
        context = fmean(contexts)
        live = pressure * self.fleet.tokens - sum(background.head_tokens)
        sessions = max(1, round(live / (context - fmean(heads))))
        new = fmean(turn.tokens for turn in turns)
        reply = fmean(turn.reply_tokens for turn in turns)
        prefill_s = profile.prefill_s(round(context - reply - new), round(context - reply))
        work_s = prefill_s + reply * profile.decode_s(round(context))
        call_s = work_s + reply * profile.step_overhead_s
        tool_s = _mean(background.tool_sigma) * _weighted(background.tools.values())
        human_s = _mean(background.human_sigma) * background.human_median_s

        def load(task_turns: int) -> Load:
            round_s = task_turns * call_s + (task_turns - 1) * tool_s + human_s
            busy = sessions * task_turns * work_s / (self.fleet.engines * round_s)
            return Load(sessions, task_turns, round_s, busy)

        return min(map(load, range(1, 51)), key=lambda option: abs(option.busy - background.busy))


def _mean(sigma: float) -> float:
    """Returns how many times its median the mean of a log-normal is."""
    return math.exp(sigma**2 / 2)


def _weighted(tools: Iterable[Tool]) -> float:
    tools = list(tools)
    return sum(tool.weight * tool.median_s for tool in tools) / sum(tool.weight for tool in tools)


def read_scenario(path: Path | None = None) -> Scenario:
    """Reads a scenario; the packaged one by default.

    Raises:
        BadScenario: if it cannot be read or is none.
    """
    where = "scenario.toml" if path is None else str(path)
    try:
        data = (files(__package__) / "scenario.toml").read_bytes() if path is None else path.read_bytes()
        return Scenario.model_validate(tomllib.loads(data.decode()))
    except OSError as error:
        raise BadScenario(f"{where}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadScenario(f"{where}: not TOML: {error}") from None
    except ValidationError as error:
        raise BadScenario(f"{where}: {first_problem(error)}") from None
