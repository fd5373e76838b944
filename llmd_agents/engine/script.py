"""Scripts: what the embedded engine says to a program that needs more than made-up words.

A request names a script with the header `x-llmd-script: FILE/NAME`. A script is a list of replies; the i-th
answers a prompt with i messages of the assistant in it, and the last one all later ones. In TOML:

    [turn]                                     # with this in react.toml, `react/turn`
    replies = [
      { tokens = 150, calls = [{ name = "search", arguments = { query = "tides" } }] },
      { tokens = 80, json = { score = 7, rationale = "" } },
      { tokens = 400 },                        # words
    ]

A reply is brought to its length by words at the end of its last member that is a text (of its last call's
arguments, if it calls tools), else by blanks. What does not fit into `tokens` is said nevertheless.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from llmd_agents.hints.errors import first_problem

SCRIPT_HEADER: Final = "x-llmd-script"


class ScriptError(ValueError):
    """The file holds no scripts; the message names it and what is wrong."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptedCall(_Entry):
    """One call of a tool."""

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] = Field(default_factory=dict)


class ScriptedReply(_Entry):
    """One reply: words, calls of tools, or a JSON object.

    Attributes:
        tokens: its length; as long as the engine's other replies if None.
        calls: made only if the request offers tools; it gets as many words otherwise.
        json_object: in the file, `json`.
    """

    tokens: Annotated[int, Field(ge=1)] | None = None
    calls: tuple[ScriptedCall, ...] = ()
    json_object: Annotated[dict[str, Any] | None, Field(alias="json")] = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.calls and self.json_object is not None:
            raise ValueError("give either calls or json")
        return self


class _Script(_Entry):
    replies: Annotated[tuple[ScriptedReply, ...], Field(min_length=1)]


Script: TypeAlias = tuple[ScriptedReply, ...]
_SCRIPTS: Final = TypeAdapter(dict[str, _Script])


def reply_to(script: Script, turn: int) -> ScriptedReply:
    """Returns what a script says in a turn, counted from 0."""
    return script[min(turn, len(script) - 1)]


def read_scripts(path: Path) -> dict[str, Script]:
    """Returns the scripts of a TOML file, by the name that requests use.

    Raises:
        ScriptError: if it cannot be read or is no such file.
    """
    try:
        return _parse(path.stem, path.read_bytes())
    except OSError as error:
        raise ScriptError(f"{path}: {error.strerror}") from None
    except ScriptError as error:
        raise ScriptError(f"{path}: {error}") from None


@cache
def packaged_scripts() -> Mapping[str, Script]:
    """Returns the scripts in `scripts/`: those of the programs that `llmd-agents demo` runs."""
    scripts: dict[str, Script] = {}
    for item in (files(__package__) / "scripts").iterdir():
        if item.name.endswith(".toml"):
            scripts.update(_parse(item.name.removesuffix(".toml"), item.read_bytes()))
    return scripts


def _parse(name: str, data: bytes) -> dict[str, Script]:
    try:
        found = _SCRIPTS.validate_python(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScriptError(f"not TOML: {error}") from None
    except ValidationError as error:
        raise ScriptError(first_problem(error)) from None
    if not found:
        raise ScriptError("holds no script")
    return {f"{name}/{key}": script.replies for key, script in found.items()}
