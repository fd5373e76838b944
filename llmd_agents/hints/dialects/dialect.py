"""What a dialect is: the words of another stack for what hints declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..models import Hints


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What some stacks want to know beside the hints of a step.

    Attributes:
        parent_branch: what the step's branch was forked from; None on a first branch, or if unknown.
        objective: name of the llm-d `InferenceObjective` that the operator made for such calls.
        orders_by_priority: the vLLM behind the call runs with `--scheduling-policy priority`. Any other
            refuses calls with a priority, so without this none is sent.
    """

    parent_branch: str | None = None
    objective: str | None = None
    orders_by_priority: bool = False


Headers: TypeAlias = Callable[[Hints, Surroundings], dict[str, str]]
Fields: TypeAlias = Callable[[Hints, Mapping[str, Any], Surroundings], dict[str, Any]]
"""From hints and a request body to the body's members that are to be set; the body itself stays as it is."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One stack's words.

    Attributes:
        name: as in `apply_headers`.
        stack: whom it is for.
        receives: what the stack is told, one entry a header or member; for the documentation.
        loses: what the stack has no word for; for the documentation.
        headers: None if it sends none.
        fields: None if it leaves the body alone.
        sender: who may send it. What comes from a router is trusted by the engine, so applications do not.
    """

    name: str
    stack: str
    receives: tuple[tuple[str, str], ...]
    loses: str
    headers: Headers | None = None
    fields: Fields | None = None
    sender: Literal["client", "router"] = "client"


def beside(body: Mapping[str, Any], name: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `{name: ours}` merged with what the caller set there himself, which wins.

    Empty when there is nothing to add, or when the caller's value is no object.
    """
    theirs = body.get(name)
    if theirs is None:
        return {name: dict(ours)} if ours else {}
    if not isinstance(theirs, Mapping) or not ours.keys() - theirs.keys():
        return {}
    return {name: {**ours, **theirs}}
