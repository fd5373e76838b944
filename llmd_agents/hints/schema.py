"""The contract as one JSON Schema document.

Descriptions come from the docstrings in the source, read when somebody asks: importing the contract costs
nothing for them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from .ack import Ack
from .attribute_docs import attribute_docs, summary
from .events import Event
from .fields import Contract
from .header import VERSION
from .limits import EVENTS_PER_BATCH_MAX
from .models import Hints

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


_COMMON: Final = {
    "type": "Which kind it is.",
    "program": "The program that it happened in.",
    "at": "When it happened, by the sender's clock.",
    "branch": "The branch that it happened on.",
    "hint": "The member that it is about.",
    "reason": "Why, in words for people.",
    "digest": "Names the context that it is about.",
    "scope": "The `cache_salt` that the context was computed under, as in residency events.",
}
"""Fields that many models have and none explains again."""


class EventBatch(Contract):
    """The body of `POST /v1/agent/events`."""

    version: Literal[1]
    """Of the contract."""
    events: Annotated[
        list[Annotated[Event, Field(discriminator="type")]], Field(max_length=EVENTS_PER_BATCH_MAX)
    ]
    """In the order in which they happened."""


def contract_schema() -> dict[str, Any]:
    """Returns the JSON Schema of hints, ack and events: each a definition, with all that they hold.

    Headers are no JSON: their schema is of what `llmd-agents hints encode` takes and `decode` prints.
    """
    roots: tuple[type[BaseModel], ...] = (Hints, Ack, EventBatch)
    _, made = models_json_schema([(root, "validation") for root in roots])
    definitions: dict[str, Any] = made["$defs"]
    described = _classes(roots)
    for name, definition in definitions.items():
        if (of := described.get(name)) is None:
            continue
        definition["description"] = summary(of)
        docs = field_docs(of)
        for field, schema in definition.get("properties", {}).items():
            if field in docs:
                schema["description"] = docs[field]
    return {
        "$schema": SCHEMA_DIALECT,
        "title": f"llmd-agents contract, version {VERSION}",
        "description": "Members that a definition does not name are kept and ignored.",
        "anyOf": [{"$ref": f"#/$defs/{root.__name__}"} for root in roots],
        "$defs": dict(sorted(definitions.items())),
    }


def field_docs(of: type) -> dict[str, str]:
    """Returns what each field of a model means, by its name."""
    return _COMMON | attribute_docs(of)


def _classes(roots: tuple[type, ...]) -> dict[str, type]:
    """Returns the classes that may stand behind definitions, by name."""
    from . import events, header, models

    found = {root.__name__: root for root in roots}
    for module in (models, events, header):
        found |= {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return found
