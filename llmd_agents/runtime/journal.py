"""The event log of a runtime: every input with its time, and every decision, as one JSON line each.

It holds digests, sizes, names, ids and times, and never contents. The same inputs give the same decisions:
a log can be fed to a fresh runtime (`redecide`) to see why it decided as it did, or whether other code would
decide differently.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

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
        self._write(_ENCODER.encode({"is": name, **fields}).encode())


_NAMES: Final[dict[type[Any], tuple[str, ...]]] = {}
"""The fields of each kind of model and dataclass that was written."""


def _plain(value: Any) -> Any:
    """Returns a value that JSON does not know as one whose parts it may know. Of models only the fields that
    the contract knows: a peer may send others, with anything in them."""
    if isinstance(value, bytes):
        return value.hex()
    kind = type(value)
    model = isinstance(value, BaseModel)
    names = _NAMES.get(kind)
    if names is None:
        fields = kind.model_fields if model else [field.name for field in dataclasses.fields(value)]
        names = _NAMES[kind] = tuple(fields)
    if model:
        return {name: item for name in names if (item := getattr(value, name)) is not None}
    return {name: getattr(value, name) for name in names}


# Lines are made where the body decides, most often on its event loop: plain values go to the C encoder as
# they are.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=_plain)
