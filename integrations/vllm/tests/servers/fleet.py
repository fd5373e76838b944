"""Three real engines as an operator would start them, and the router in front of them."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from harness.counters import Counters
from harness.engines import Engine, EngineOptions, cached_tokens, engines
from harness.hinted import Messages
from llmd_agents.demo.fleet import local_router
from llmd_agents.hints import KV_PATH, Directive, DirectiveOutcome, decode_outcomes, encode_directives

BLOCK = 32
NUM_BLOCKS = 160
CAPACITY = (NUM_BLOCKS - 1) * BLOCK
"""Tokens that fit on a device."""

SEQUENCES = 8
"""That an engine runs at a time."""

COSTS = {"prefill_s_per_token": 1e-4, "step_s": 1e-3, "decode_s_per_seq": 1e-3}
"""Stated, since what engines would learn depends on what else the machine does: a wide fork should spread."""

KEY = "sesame"
"""What the third engine asks for."""

TELLING: Mapping[str, Any] = {"temperature": 0, "presence_penalty": 2}
"""Greedy answers that depend on the whole context. The tiny model would say one token again and again."""

FLAGS = (
    "--middleware",
    "llmd_agents_vllm.middleware.HintsMiddleware",
    "--scheduler-cls",
    "llmd_agents_vllm.scheduler.AgentScheduler",
    "--scheduling-policy",
    "priority",
)


@dataclass(frozen=True)
class Fleet:
    """Running engines; the last of them has a key."""

    engines: list[Engine]
    folder: Path

    @contextmanager
    def router(self) -> Iterator[str]:
        """Starts a router; returns its address, without `/v1`, once it knows what all engines can do."""
        config = self.folder / "router.json"  # JSON is YAML
        named = [{"url": engine.url, "name": f"engine-{at}"} for at, engine in enumerate(self.engines)]
        named[-1]["api_key"] = KEY
        config.write_text(json.dumps({"port": 0, "engines": named, "health_interval_s": 0.2}))
        with local_router([], ["--config", str(config)]) as url:
            until(lambda: all(view["directives"] for view in engine_views(url)))
            yield url

    def forget(self) -> None:
        """Empties all devices."""
        for engine in self.engines:
            forget(engine)

    def counters(self) -> list[Counters]:
        return [engine.counters() for engine in self.engines]


@contextmanager
def fleet(model: Path, folder: Path, kv_transfer_config: Mapping[str, Any]) -> Iterator[Fleet]:
    def options(*flags: str) -> EngineOptions:
        return EngineOptions(
            num_blocks=NUM_BLOCKS,
            max_num_seqs=SEQUENCES,
            kv_transfer_config=kv_transfer_config,
            flags=(*FLAGS, *flags),
            environment={"VLLM_PLUGINS": "llmd_agents", "VLLM_SERVER_DEV_MODE": "1"},
        )

    with engines(model, folder, options(), options(), options("--api-key", KEY)) as started:
        started[-1].client.headers["authorization"] = f"Bearer {KEY}"
        yield Fleet(started, folder)
        for engine in started:
            log = engine.log.read_text()
            for fault in ("Traceback", "AgentConnector has failed"):
                assert fault not in log, f"{engine.log} tells of a fault"


def until(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Waits for something that will be true soon."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"not so within {patience_s:g} s"
        time.sleep(0.05)


def engine_views(router: str) -> list[dict[str, Any]]:
    """Returns what a router says of its engines."""
    views: list[dict[str, Any]] = httpx.get(f"{router}/v1/agent/engines").raise_for_status().json()["engines"]
    return views


def forget(engine: Engine) -> None:
    """Empties an engine's device, once it is idle."""
    until(lambda: engine.client.post("/reset_prefix_cache").raise_for_status().json()["success"])


def context(name: str, words: int = 240) -> list[dict[str, str]]:
    """A conversation of about `words` times two tokens that shares nothing with one of another name."""
    system = f"{name} keeps what follows. " + f"word {name} " * (words // 2)
    return [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}]


_floods = itertools.count()


def flood(engine: Engine, tokens: int = CAPACITY + 16 * BLOCK) -> None:
    """Has an engine compute so many tokens that nobody asks for again."""
    while tokens > 0:
        answer = engine.chat(context(f"flood{next(_floods)}", 600), max_tokens=1)
        tokens -= answer["usage"]["prompt_tokens"]


def directed(engine: Engine, *directives: Directive) -> list[DirectiveOutcome]:
    """Sends directives as a router does; returns what became of each."""
    body = encode_directives("m", [(f"a{at}", directive) for at, directive in enumerate(directives)])
    response = engine.client.post(KV_PATH, content=body).raise_for_status()
    return list(decode_outcomes(response.content).outcomes)


def when_answered(engine: Engine, requests: int) -> None:
    """Waits until an engine has answered so many requests since it started, others' and its own."""
    until(lambda: engine.counters().requests >= requests)


@dataclass(frozen=True)
class Asked:
    """
    Attributes:
        text: what was answered.
        cached_tokens: of the prompt.
        sources: where they were found, and how many; a block that then failed to load counts here still.
        full_hit: how many can be cached at most.
    """

    text: str
    cached_tokens: int
    sources: Mapping[str, int]
    full_hit: int

    def served_from(self, source: str) -> "Asked":
        """Returns the same answer with all that can be cached found in one place."""
        return replace(self, cached_tokens=self.full_hit, sources={source: self.full_hit})

    def computed(self) -> "Asked":
        """Returns the same answer with nothing cached."""
        return replace(self, cached_tokens=0, sources={})


def asked(engine: Engine, messages: Messages, **body: Any) -> Asked:
    """Has a conversation answered, with nothing else under way."""
    before = engine.counters()
    answer = engine.chat(messages, **TELLING, **body)
    sources = (engine.counters() - before).cached_by_source
    full_hit = (answer["usage"]["prompt_tokens"] - 1) // BLOCK * BLOCK
    return Asked(answer["choices"][0]["message"]["content"], cached_tokens(answer), sources, full_hit)


def in_common(prompts: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens prompts begin with alike."""
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return sum(1 for _ in alike)


def summed(sources: Sequence[Counters]) -> dict[str, int]:
    """Returns cached tokens by source, of all engines."""
    return dict(sum((Counter(one.cached_by_source) for one in sources), Counter()))
