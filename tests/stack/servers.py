"""Routers and embedded engines for tests, as threads of this process or as processes of their own."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from llmd_agents.engine import EngineProfile, EngineServer, load_profile
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import App, Message, Receive, in_background

FAST = 1000.0


def small_profile(**changes: Any) -> EngineProfile:
    return dataclasses.replace(load_profile("tiny"), **changes)


@dataclasses.dataclass(frozen=True)
class Stack:
    """Base URLs, without `/v1`."""

    router: str
    engines: tuple[str, ...]
    brain: Router

    def program(self, program_id: str) -> Any:
        return get_json(f"{self.router}/v1/agent/programs/{program_id}")

    def engine_views(self) -> Any:
        return get_json(f"{self.router}/v1/agent/engines")["engines"]


def get_json(url: str) -> Any:
    return httpx.get(url, timeout=10).raise_for_status().json()


@contextmanager
def stack(engines: int | Sequence[App] = 2, *, time_scale: float = FAST, **config: Any) -> Iterator[Stack]:
    """Runs engines (tiny ones, or the given applications) and a router in threads."""
    if isinstance(engines, int):
        engines = [EngineServer(small_profile(), time_scale=time_scale) for _ in range(engines)]
    with ExitStack() as running:
        urls = tuple(running.enter_context(in_background(engine)) for engine in engines)
        config = {"health_interval_s": 0.05, **config}
        settings = RouterConfig(engines=tuple(EngineConfig(url=url) for url in urls), **config)
        router = Router(settings)
        yield Stack(running.enter_context(in_background(router)), urls, router)


@contextmanager
def engine_process(*options: str, stderr: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Runs `llmd-agents engine`; yields the process, to be killed if need be, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmd_agents", "engine", "--port", "0", "--until-stdin-closes", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process, process.stdout.readline().decode().rsplit(" ", 1)[1].strip()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


def given_again(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` for an application that is to get a body which has been read already."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def wait_for(condition: Callable[[], object]) -> None:
    """Waits for something that will be true soon."""
    for _ in range(4000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing of the kind within 40 s")
