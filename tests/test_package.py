"""What the package promises of itself."""

import subprocess
import sys
from pathlib import Path

import llmd_agents
from llmd_agents import bench, client, engine, hints, linter, router, runtime


def test_public_names_exist_and_are_sorted() -> None:
    for module in (llmd_agents, bench, client, engine, hints, linter, router, runtime):
        assert all(hasattr(module, name) for name in module.__all__)
        # Constants first, then classes, then functions, as ruff sorts them.
        assert len(set(module.__all__)) == len(module.__all__)


def test_names_that_are_loaded_when_used_come_in_any_order() -> None:
    code = (
        "from llmd_agents.client import current_scope, begin_scope\n"
        "assert begin_scope('chain').run is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_client_loads_no_server_and_no_framework() -> None:
    code = "import sys, llmd_agents; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & {
        "uvicorn",
        "aiohttp",
        "prometheus_client",
        "orjson",
        "msgspec",
        "typer",
        "rich",
        "yaml",
        "http_sf",
    }


def test_importing_the_client_loads_nothing_of_what_routers_say_to_engines() -> None:
    code = "import sys, llmd_agents; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    parts = {"directives", "residency", "retention"}
    assert not {f"llmd_agents.hints.{part}" for part in parts} & set(loaded.split())


def test_each_integration_is_distributed_with_the_license() -> None:
    root = Path(__file__).parents[1]
    license_text = (root / "LICENSE").read_text()
    distributions = [path.parent for path in root.glob("integrations/*/pyproject.toml")]
    assert len(distributions) == 6
    # Copies: a link would lead out of the source distribution.
    assert all((folder / "LICENSE").read_text() == license_text for folder in distributions)
