"""How long tools take: learned in this process by name, and kept in a file for the next one if asked.

The quantiles of ln(seconds) come from a t-digest (Dunning, "The t-digest: Efficient estimates of
distributions", 2021; the package fastdigest).
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmd_agents.hints.limits import SECONDS_MAX

from . import quiet
from .tool_name import tool_name

if TYPE_CHECKING:
    from fastdigest import TDigest

log = logging.getLogger("llmd_agents.client")

FILE_VARIABLE: Final = "LLMD_AGENTS_TOOL_DURATIONS"
"""Environment variable: where durations are read from at first use and written to at the process's end."""

OBSERVATIONS_MIN: Final = 3
"""Fewer tell nothing yet."""

TOOLS_MAX: Final = 1024
"""Of more tools those are forgotten that have not run for longest."""

SHARE: Final = 16
"""What to expect is computed anew once so large a part of the observations (a sixteenth) is newer."""

NEWER_MAX: Final = 32
"""Most observations that wait for that."""

CENTROIDS_MAX: Final = 32
MEMORY: Final = 256
"""Observations of a tool past which the older half of the weight fades, so that a change is noticed."""

SHORTEST_S: Final = 1e-3
"""The contract's own precision."""

SIGMA_UNKNOWN: Final = 0.7
"""Spread to begin with; it counts as much as two observations."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect of a tool's next call, as log-normal.

    Attributes:
        median_s: in seconds.
        sigma: standard deviation of ln(seconds).
        samples: observations that this rests on; older ones count less.
    """

    median_s: float
    sigma: float
    samples: int

    def off_by(self, median_s: float) -> float:
        """Returns by how much another median is too long (or, negative, too short), as a logarithm."""
        return math.log(max(median_s, SHORTEST_S) / max(self.median_s, SHORTEST_S))


@dataclass(slots=True)
class _Tool:
    """What is kept of one tool.

    Attributes:
        newer: ln(seconds) of observations that are not in the digest yet: several cost it as much as one.
        expected: what the digest says, as of when it took the latest in.
    """

    digest: TDigest
    newer: list[float] = field(default_factory=list)
    expected: Expected | None = None

    def take_in(self) -> None:
        """Brings the digest up to date, and what is expected by it."""
        if self.digest.mass() >= MEMORY:
            self.digest = _faded(self.digest)
        self.digest.batch_update(self.newer)
        self.newer.clear()
        self.expected = _expected(self.digest)


class ToolDurations:
    """Learned durations by tool name. Bounded, safe to use from several threads; nothing here ever raises."""

    def __init__(self) -> None:
        self._tools: OrderedDict[str, _Tool] = OrderedDict()
        self._lock = threading.RLock()

    def observe(self, name: str, seconds: float) -> None:
        """Learns that one call took so long. What is no duration is left out."""
        with quiet.faults("a tool's duration is not learned"):
            if not 0 <= seconds < math.inf:
                return
            name = tool_name(name)
            value = math.log(min(max(seconds, SHORTEST_S), SECONDS_MAX))
            with self._lock:
                tool = self._tools.get(name)
                if tool is None:
                    tool = self._tools[name] = _Tool(_digest())
                    if len(self._tools) > TOOLS_MAX:
                        self._tools.popitem(last=False)
                tool.newer.append(value)
                if len(tool.newer) >= NEWER_MAX:
                    tool.take_in()
                self._tools.move_to_end(name)

    def expect(self, name: str) -> Expected | None:
        """Returns what was learned of a tool; None before `OBSERVATIONS_MIN` observations."""
        with quiet.faults("a tool's duration is not told"), self._lock:
            tool = self._tools.get(tool_name(name))
            if tool is None:
                return None
            known = tool.expected
            if known is None or len(tool.newer) > known.samples // SHARE:
                tool.take_in()
            return tool.expected
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all that was learned to a file, in one piece: a reader never sees half of it.

        What the file tells of tools that are not known here is kept; of a tool that two processes know, what
        the last one to save knows. A file that cannot be written is logged as a warning, and so is one that
        is something else: it stays as it is.
        """
        from .durations_file import write

        try:
            self.load(path)
            with self._lock:
                for tool in self._tools.values():
                    tool.take_in()
                found = {name: tool.digest.centroids for name, tool in self._tools.items()}
            write(Path(path), found)
        except Exception as error:  # noqa: BLE001  (what was learned is a convenience)
            log.warning("tool durations are not saved to %s: %s", path, error)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Adds what a file tells of tools that are not known yet.

        A missing file is none; one that is damaged, or not of `save`, is left out and logged as a warning.
        """
        from .durations_file import read

        try:
            found = read(Path(path))
            with self._lock:
                for name, centroids in found.items():
                    if name not in self._tools and len(self._tools) < TOOLS_MAX:
                        self._tools[name] = _Tool(_restored(centroids))
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001  (as above)
            log.warning("tool durations are not read from %s: %s", path, error)

    def _unlock(self) -> None:
        # In a forked child: a thread that it does not have may have held the lock.
        self._lock = threading.RLock()


def _expected(digest: TDigest) -> Expected | None:
    samples = round(digest.mass())
    if samples < OBSERVATIONS_MIN:
        return None
    low, median, high = digest.quantile_vec([0.16, 0.5, 0.84])
    variance = (samples * ((high - low) / 2) ** 2 + 2 * SIGMA_UNKNOWN**2) / (samples + 2)
    return Expected(round(math.exp(median), 3), round(math.sqrt(variance), 3), samples)


def _digest() -> TDigest:
    from fastdigest import TDigest

    return TDigest(max_centroids=CENTROIDS_MAX)


def _restored(centroids: list[tuple[float, float]]) -> TDigest:
    from fastdigest import TDigest

    means, weights = zip(*centroids, strict=True)
    return TDigest.from_values(means, weights, max_centroids=CENTROIDS_MAX)


def _faded(digest: TDigest) -> TDigest:
    return _restored([(mean, weight / 2) for mean, weight in digest.centroids])


_learned: ToolDurations | None = None
_lock = threading.Lock()


def expected_duration(tool: str) -> Expected | None:
    """Returns how long a tool's calls took in this process; None until there were a few."""
    return tool_durations().expect(tool)


def tool_took(tool: str, seconds: float) -> None:
    """Learns how long one call of a tool took. What is no duration is left out."""
    tool_durations().observe(tool, seconds)


def tool_durations() -> ToolDurations:
    """Returns what this process knows of its tools' durations.

    The first call reads the file that the environment variable `LLMD_AGENTS_TOOL_DURATIONS` names, if it is
    set, and has it written at the end of the process.
    """
    global _learned
    if _learned is None:
        with _lock:
            if _learned is None:
                found = ToolDurations()
                if path := os.environ.get(FILE_VARIABLE):
                    path = os.path.abspath(path)  # the working directory may be another one at the end
                    found.load(path)
                    atexit.register(found.save, path)
                _learned = found
    return _learned


def _restart() -> None:
    global _lock
    _lock = threading.Lock()
    if _learned is not None:
        _learned._unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart)
