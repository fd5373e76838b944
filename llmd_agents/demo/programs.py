"""The demo's programs: the files in `examples/`, which a wheel carries as `llmd_agents/demo/programs`."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROGRAMS: Final = {
    "tree-of-thought": "tree_of_thought.py",
    "react": "react_tools.py",
    "swarm": "swarm_grading.py",
    "pipeline": "investment_pipeline.py",
}


class ProgramsMissing(RuntimeError):
    """The programs are not where an installation has them."""


class RunProgram(Protocol):
    """Runs one program to its end, and returns what it says."""

    async def __call__(self, client: AsyncOpenAI, *, seed: int, program_id: str) -> str: ...


@cache
def load_program(name: str) -> RunProgram:
    """Returns one of `PROGRAMS`.

    Raises:
        ProgramsMissing: if its file is not there.
    """
    path = _folder() / PROGRAMS[name]
    spec = importlib.util.spec_from_file_location(f"llmd_agents_demo_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ProgramsMissing(f"{path} is missing")
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: RunProgram = module.run
    return run


def _folder() -> Path:
    here = Path(__file__).parent
    packaged = here / "programs"
    return packaged if packaged.is_dir() else here.parents[1] / "examples"
