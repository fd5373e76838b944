"""What a runtime knows of one engine."""

from dataclasses import dataclass, field

from llmd_agents.hints import EngineKv

from .load import EngineLoad, Occupancy, Others


@dataclass(slots=True)
class EngineState:
    """Counters of one engine. `queued` is bytes of prompt that it has yet to compute before it answers.

    Attributes:
        epoch: names the run of the engine whose residency events are followed; None without any.
        kv: what it tells of its cache and the directives that it takes; None if it takes none.
        branches: how many of the calls under way there are steps of a fork's branches.
        context: bytes of prompt of all calls under way there.
        occupancy: what they take of its device.
        load: what it told last of all its work, and when; None if it has not since it came up.
    """

    up: bool = True
    epoch: str | None = None
    seq: int = -1
    kv: EngineKv | None = None
    running: int = 0
    branches: int = 0
    queued: int = 0
    context: int = 0
    occupancy: Occupancy = field(default_factory=Occupancy)
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    load: EngineLoad | None = None
    load_at: float = 0.0

    def others(self, at: float) -> Others:
        """Returns what is under way there at `at` that this runtime did not send, as far as is known."""
        return self.load.others(at - self.load_at) if self.load is not None else Others()
