"""The event log of a runtime: every input with its time, and every decision, as one JSON line each.

It holds digests, sizes, names, ids and times, and never contents. The same inputs give the same decisions:
a log can be fed to a fresh runtime (`redecide`) to see why it decided as it did, or whether other code would
decide differently.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

VERSION = 1


class Journal:
    """Writes the log.

    Args:
        write: takes one line, without its end, and must neither block nor raise.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def begin(
        self, engines: Sequence[str], tenants: Mapping[str, str | None], placement: str, mode: str
    ) -> None:
        fields = {"version": VERSION, "engines": list(engines), "tenants": dict(tenants)}
        self.note("runtime", {**fields, "placement": placement, "mode": mode})

    def note(self, name: str, fields: Mapping[str, object]) -> None:
        line = {"is": name, **{key: _plain(value) for key, value in fields.items()}}
        self._write(json.dumps(line, separators=(",", ":")).encode())


def _plain(value: Any) -> Any:
    """Returns a value as JSON knows it. Of models only the fields that the contract knows: a peer may send
    others, with anything in them."""
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _plain(item) for name, item in fields.items() if item is not None}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value
