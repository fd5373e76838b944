"""Field types that several models of the contract share."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from .limits import (
    FAN_OUT_MAX,
    ID_MAX_CHARS,
    ITERATION_MAX,
    NAME_MAX_CHARS,
    SECONDS_MAX,
    SIZE_MAX,
)


class Contract(BaseModel):
    """Base settings of every model on the wire: immutable, tolerant of later fields."""

    # Built when first used, which pydantic does for one thread at a time: an import builds none.
    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must hold printable characters only")
    return name


def _alone(value: Any) -> Any:
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        raise ValueError("must be a single word")
    return value


def _from_hex(value: Any) -> Any:
    return bytes.fromhex(value) if isinstance(value, str) else value


def _matching(pattern: str) -> dict[str, Any]:
    """Returns the JSON Schema of a pattern whose `$` is the very end, in any validator's language."""
    return {"type": "string", "pattern": pattern, "not": {"pattern": "\\n"}}


Word = BeforeValidator(_alone)
"""Beside an enumeration: Python's own would first try to print what it refuses, however deep that is."""

Id = Annotated[
    str,
    StringConstraints(pattern=rf"\A[A-Za-z0-9][A-Za-z0-9._:~-]{{0,{ID_MAX_CHARS - 1}}}\z", strict=True),
    WithJsonSchema(_matching(rf"^[A-Za-z0-9][A-Za-z0-9._:~-]{{0,{ID_MAX_CHARS - 1}}}$")),
]
"""An opaque identifier: 1–64 ASCII letters, digits and `. _ : ~ -`; the first a letter or digit."""

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=NAME_MAX_CHARS, strict=True),
    AfterValidator(_printable),
]
"""A name for people: 1–128 printable characters, any script."""

Digest = Annotated[
    bytes,
    Field(min_length=16, max_length=16, strict=True),
    # After the constraints, which so are checked by the core and not one by one in Python.
    BeforeValidator(_from_hex),
    PlainSerializer(bytes.hex, return_type=str, when_used="json"),
    WithJsonSchema(_matching("^[0-9A-Fa-f]{32}$")),
]
"""A chain digest: 16 bytes, 32 hexadecimal digits in JSON."""

Seconds = Annotated[float, Field(ge=0, le=SECONDS_MAX, allow_inf_nan=False)]
"""A duration in seconds: a number from 0 to 10^9."""

Timestamp = Annotated[float, Field(ge=0, le=10**11, allow_inf_nan=False)]
"""Seconds since the Unix epoch: a number from 0 to 10^11."""

Sigma = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
"""How unsure a duration is: the standard deviation of its natural logarithm, a number from 0 to 10."""

Size = Annotated[int, Field(ge=0, le=SIZE_MAX, strict=True)]
"""A count of bytes or tokens: an integer from 0 to 10^12."""

FanOut = Annotated[int, Field(ge=1, le=FAN_OUT_MAX, strict=True)]
"""How many branches: an integer from 1 to 100,000."""

Index = Annotated[int, Field(ge=0, lt=FAN_OUT_MAX, strict=True)]
"""Which branch of a fork: an integer from 0 to 99,999."""

Iteration = Annotated[int, Field(ge=0, le=ITERATION_MAX, strict=True)]
"""Which turn of a loop: an integer from 0 to 1,000,000; the first is 0."""
