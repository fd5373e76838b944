"""Three real engines and a router in front of them."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

from llmd_agents import instrument
from llmd_agents.demo.fleet import FleetError, local_router

from .counters import Counters
from .engines import Engine, engines
from .fleet_arms import Arm, Size

ENGINES: Final = 3
READY_S: Final = 900.0
RESET_S: Final = 60.0


class NotReset(RuntimeError):
    """An engine would not give up what it holds."""


@dataclass(frozen=True)
class Fleet:
    """Engines of one arm, and the router that is in front of them now."""

    engines: list[Engine]
    router: str

    def client(self) -> openai.AsyncOpenAI:
        return instrument(
            openai.AsyncOpenAI(base_url=f"{self.router}/v1", api_key="none", timeout=600, max_retries=0)
        )

    def counters(self) -> list[Counters]:
        return [engine.counters() for engine in self.engines]

    def directives(self) -> dict[str, dict[str, int]]:
        """Returns how many directives the router has sent since it started, by type and what became of
        them; warm-ups among them."""
        found: dict[str, Counter[str]] = {}
        text = httpx.get(f"{self.router}/metrics", timeout=60).raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "llmd_router_directives_total" and sample.value:
                    labels = sample.labels
                    found.setdefault(labels["type"], Counter())[labels["outcome"]] += int(sample.value)
        return {kind: dict(counts) for kind, counts in found.items()}


@contextmanager
def arm_engines(
    model: Path, folder: Path, arm: Arm, size: Size, count: int = ENGINES
) -> Iterator[list[Engine]]:
    """Runs the engines of one arm.

    Raises:
        EngineFailed: if one does not start.
    """
    with engines(model, folder, *[arm.engine(size)] * count, ready_s=READY_S) as started:
        yield started


@contextmanager
def fleet(started: list[Engine], folder: Path, arm: Arm) -> Iterator[Fleet]:
    """Empties the engines' caches and runs a router that knows nothing yet.

    Raises:
        NotReset: if a cache cannot be emptied.
        FleetError: if the router does not start, or does not find the engines.
    """
    for engine in started:
        reset(engine)
    config = folder / "router.yaml"
    config.write_text(f"mode: {arm.mode}\nplacement: load_and_affinity\nengines:\n")
    with config.open("a") as file:
        file.writelines(f"  - url: {engine.url}\n" for engine in started)
    with local_router([], ["--config", str(config)]) as router:
        _wait_until_ready(router, directed=arm.hints and arm.connector)
        yield Fleet(started, router)


def reset(engine: Engine) -> None:
    """Empties all caches of an engine.

    Raises:
        NotReset: if it still refuses after a while; blocks that a request holds cannot be given up.
    """
    deadline = time.monotonic() + RESET_S
    while time.monotonic() < deadline:
        answer = engine.client.post("/reset_prefix_cache", params={"reset_external": "true"})
        if answer.raise_for_status().json()["success"]:
            return
        time.sleep(0.2)
    raise NotReset(f"{engine.url} holds on to its cache (see {engine.log})")


def total(later: list[Counters], earlier: list[Counters]) -> Counters:
    """Returns what all engines counted between two readings."""
    parts = [after - before for after, before in zip(later, earlier, strict=True)]
    sources: Counter[str] = Counter()
    for part in parts:
        sources.update(part.cached_by_source)
    return Counters(
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        generation_tokens=sum(part.generation_tokens for part in parts),
        cached_by_source=dict(sources),
        requests=sum(part.requests for part in parts),
        preemptions=sum(part.preemptions for part in parts),
    )


def _wait_until_ready(router: str, *, directed: bool) -> None:
    """Waits until the router has seen every engine and, where they take any, what directives it takes.

    Raises:
        FleetError: if it has not after a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = httpx.get(f"{router}/v1/agent/engines", timeout=10)
        views = answer.raise_for_status().json()["engines"]
        if all(view["up"] and (view["directives"] or not directed) for view in views):
            return
        time.sleep(0.1)
    raise FleetError("the router has not found all engines within a minute")
