"""The server over real sockets. Modelled time runs fast enough there that nothing waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from llmd_agents import serving
from llmd_agents.engine import EngineProfile, EngineServer, load_profile

TINY = load_profile("tiny")


@contextmanager
def serve(profile: EngineProfile = TINY, **options: Any) -> Iterator[httpx.Client]:
    options.setdefault("time_scale", 1000.0)
    server = EngineServer(profile, **options)
    with serving.in_background(server) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
