"""A router in front of embedded engines."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.engine.script import read_scripts
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.serving import in_background


@contextmanager
def stack(*, scripts: Path | None = None) -> Iterator[str]:
    """Yields the base URL of the router's API, `/v1` included.

    Args:
        scripts: a file of what the engines say to who asks for a script.
    """
    known = {} if scripts is None else read_scripts(scripts)
    with ExitStack() as running:
        servers = [EngineServer(load_profile("tiny"), time_scale=1000.0, scripts=known) for _ in range(2)]
        urls = [running.enter_context(in_background(server)) for server in servers]
        config = RouterConfig(engines=tuple(EngineConfig(url=url) for url in urls))
        yield running.enter_context(in_background(Router(config))) + "/v1"
