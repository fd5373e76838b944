"""Modelled time: it follows the wall clock while the engine is idle, and its own cost model while it is busy.

    wall     ──idle──┬──── Python computes a step ────┬── wait ──┬──idle──
    modelled ──idle──┴── the step's modelled duration ───────────┴──idle──

An idle engine that waits for a transfer counts as busy until the transfer's end or a request's arrival, so
that it goes on at exactly that modelled time.

What Python spends on a step is taken from the wait, and never enters modelled durations: if Python needs
longer than the step should take, the wall falls behind and modelled time resumes from where the work ended.
"""


class ModelClock:
    """Maps wall time to modelled time; both in seconds, modelled time starts at 0.

    Args:
        wall: the wall time now, from any monotonic clock.
        time_scale: modelled seconds per second of wall time.
    """

    def __init__(self, wall: float, *, time_scale: float = 1.0) -> None:
        if not 0 < time_scale < float("inf"):
            raise ValueError(f"time_scale must be a positive number, not {time_scale}")
        self.time_scale = time_scale
        self._origin_wall = wall
        self._origin = 0.0
        self._busy = False
        self._step_start = 0.0
        self._step_end = 0.0

    def now(self, wall: float) -> float:
        """Returns the modelled time; during a step, at most the step's end."""
        mapped = self._origin + (wall - self._origin_wall) * self.time_scale
        if self._busy:
            return min(max(mapped, self._step_start), self._step_end)
        return max(mapped, self._step_end)

    def start(self, wall: float) -> float:
        """Begins work, unless it has begun; returns the modelled time at which the next step starts."""
        if not self._busy:
            self._step_start = self._step_end = self.now(wall)
            self._busy = True
        return self._step_end

    def advance(self, duration_s: float) -> None:
        """Notes a step of modelled duration `duration_s` that starts where the one before ended."""
        self._step_start = self._step_end
        self._step_end += duration_s

    def wait_until(self, end_s: float) -> None:
        """Lets the engine wait, busy with nothing, from where it is to a modelled time."""
        self._step_start = self._step_end
        self._step_end = max(self._step_end, end_s)

    def cut(self, wall: float) -> None:
        """Ends a wait early, where modelled time has got to."""
        self._step_end = self.now(wall)

    def owed(self, wall: float) -> float:
        """Returns how many seconds of wall time must pass until the step ends; 0 if it should have by now."""
        return max(0.0, self._origin_wall + (self._step_end - self._origin) / self.time_scale - wall)

    def rest(self, wall: float) -> None:
        """Ends work: from `wall` on modelled time follows the wall clock again."""
        if self._busy:
            self._origin_wall, self._origin = wall + self.owed(wall), self._step_end
            self._busy = False
