"""A router in front of embedded engines."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background


@contextmanager
def stack(*, engines: int = 2) -> Iterator[str]:
    """Yields the base URL of the router's API, `/v1` included."""
    with ExitStack() as running:
        servers = [EngineServer(load_profile("tiny"), time_scale=1000.0) for _ in range(engines)]
        urls = [running.enter_context(in_background(server)) for server in servers]
        config = RouterConfig(engines=tuple(EngineConfig(url=url) for url in urls))
        yield running.enter_context(in_background(Router(config))) + "/v1"
