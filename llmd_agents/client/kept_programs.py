"""Programs that outlive one run of a framework: a thread of a conversation, a graph that was interrupted."""

import atexit
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_64_hexdigest

from .guard import guard
from .ids import slug
from .label import label_of
from .program import program
from .run import FLUSH_SECONDS, Run

PROGRAMS_MAX: Final = 256
"""Programs that are kept; of more, those used longest ago are over."""

IDLE_SECONDS: Final = 600.0


class KeptPrograms:
    """Programs by what names their thread; only a hash of that is told to servers.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Run, float]] = OrderedDict()

    def run(self, name: str, thread: str) -> Run:
        """Returns the program of a thread; it begins if there is none, or it is over."""
        key = xxh3_64_hexdigest(thread.encode("utf-8", "surrogatepass"))
        now = self._clock()
        with guard:
            found = self._kept.get(key)
            run = (
                found[0]
                if found is not None
                else program(label_of(name) or "unnamed", id=f"{slug(name)}-{key}")
            )
            self._kept[key] = run, now
            self._kept.move_to_end(key)
            over = self._take_over(now)
        if found is None:
            run.start()
        for old in over:
            old.finish("abandoned")
        return run

    def end(self) -> None:
        """Ends them all."""
        with guard:
            runs = [run for run, _ in self._kept.values()]
            self._kept.clear()
        for run in runs:
            run.finish()
            run.outbox.flush(FLUSH_SECONDS / len(runs))

    def forget(self) -> None:
        """Leaves them to somebody else."""
        self._kept.clear()

    def _take_over(self, now: float) -> list[Run]:
        over: list[Run] = []
        for key, (run, used_at) in list(self._kept.items())[:-1]:
            if len(self._kept) <= PROGRAMS_MAX and now - used_at <= IDLE_SECONDS:
                break
            if run.root.scope is None or not run.root.scope.busy:
                over.append(run)
                del self._kept[key]
        return over


kept_programs = KeptPrograms()
atexit.register(kept_programs.end)
if hasattr(os, "register_at_fork"):
    # They are the parent's, which goes on with them.
    os.register_at_fork(after_in_child=kept_programs.forget)


def end_threads() -> None:
    """Ends the programs that go on in a thread until it has not been used for ten minutes (`begin_scope`).

    For applications that know better, and for tests. It happens by itself at the end of the process.
    """
    kept_programs.end()
