"""The file in which learned durations outlive a process: names of tools and times, nothing else."""

import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmd_agents.hints.fields import Name
from llmd_agents.hints.limits import SECONDS_MAX

from .durations import CENTROIDS_MAX, MEMORY, SHORTEST_S, TOOLS_MAX

FILE_MAX_BYTES: Final = 8 << 20

_FORMAT: Final = "llmd-agents tool durations"
_FORMAT_WITHIN: Final = 64
"""Bytes in which a file of this format names it, however damaged the rest is."""

_Mean = Annotated[float, Field(ge=math.log(SHORTEST_S), le=math.log(SECONDS_MAX), allow_inf_nan=False)]
_Weight = Annotated[float, Field(gt=0, le=2 * MEMORY, allow_inf_nan=False)]
_Centroids = Annotated[list[tuple[_Mean, _Weight]], Field(min_length=1, max_length=2 * CENTROIDS_MAX)]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    format: Literal["llmd-agents tool durations"] = _FORMAT
    version: Literal[1] = 1
    tools: Annotated[dict[Name, _Centroids], Field(max_length=TOOLS_MAX)]
    """For each tool the centroids of its t-digest: (mean of ln seconds, weight)."""


def read(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Returns the centroids by tool.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not one of `write`, or too long.
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("not a file")
    if size > FILE_MAX_BYTES:
        raise ValueError(f"{size} bytes, more than {FILE_MAX_BYTES}")
    return _File.model_validate_json(path.read_bytes()).tools


def write(path: Path, tools: dict[str, list[tuple[float, float]]]) -> None:
    """Puts a new file in the place of the old one.

    Raises:
        OSError: if that is not possible; the old file is as it was.
        ValueError: if what lies there is something else: the path was not meant for us.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not _replaceable(path):
        raise ValueError("it is not a file of tool durations")
    content = _File(tools=tools).model_dump_json().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _replaceable(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_FORMAT_WITHIN)
    return not start or _FORMAT.encode() in start
