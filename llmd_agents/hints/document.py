"""The contract's page in the documentation, made from the code: `python -m llmd_agents.hints.document`.

Writes `docs/contract.md`, and the table in `docs/dialects.md`; a test tells when they are not current.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from . import directives, events, fields, limits, models, residency
from .ack import Ack
from .attribute_docs import attribute_docs, summary
from .dialects import DIALECTS
from .header import VERSION, encode_hints
from .models import DEFAULT_LIFETIME, DEFAULT_SCOPE, SegmentType
from .schema import EventBatch, field_docs

CONTRACT_PAGE: Final = "contract.md"
DIALECTS_PAGE: Final = "dialects.md"
_BEGIN, _END = "<!-- generated: dialects -->", "<!-- end -->"

STEP_MODELS: Final = (
    models.Hints,
    models.Program,
    models.Step,
    models.ForkPosition,
    models.LoopPosition,
    models.Segment,
    models.Forecast,
)
EVENT_MODELS: Final = get_args(events.Event)
RESIDENCY_MODELS: Final = (residency.ResidencyBatch, residency.ResidencyChange)
DIRECTIVE_MODELS: Final = (
    *get_args(directives.Directive),
    directives.Outcomes,
    directives.DirectiveOutcome,
    directives.EngineKv,
    directives.EngineRates,
)
FIELD_TYPES: Final = {
    name: getattr(fields, name)
    for name in (
        "Id", "Name", "Digest", "Seconds", "Timestamp", "Sigma", "Size", "FanOut", "Index", "Iteration",
    )
}  # fmt: skip

HEADER_MEMBERS: Final = (
    ("v", "Integer 1; taken as 1 if absent", "", ()),
    ("program", "String", "`Program.id`", (
        ("name", "String", "`Program.name`"),
        ("priority", "Integer", "`Program.priority`"),
        ("deadline", "Decimal", "`Program.deadline`"),
    )),
    ("step", "String", "`Step.id`", (
        ("branch", "String", "`Step.branch`"),
        ("kind", "String", "`Step.kind`"),
        ("model", "String", "`Step.model`"),
        ("agent", "String", "`Step.agent`"),
    )),
    ("parents", "Inner List of Strings", "`Step.parents`", (
        ("join", "Token or Integer", "`Step.join`"),
    )),
    ("fork", "String", "`ForkPosition.id`", (
        ("index", "Integer", "`ForkPosition.index`"),
        ("width", "Integer", "`ForkPosition.width`"),
    )),
    ("loop", "String", "`LoopPosition.id`", (
        ("iteration", "Integer", "`LoopPosition.iteration`"),
        ("limit", "Integer", "`LoopPosition.limit`"),
    )),
    ("extends", "Byte Sequence of 16 bytes", "`Hints.extends`", ()),
    ("segments", "Inner List of Byte Sequences of 16 bytes", "`Segment.digest` of each", (
        ("t", "Token", "`Segment.type`, by its token below; `turn` if absent"),
        ("b", "Integer", "`Segment.size`"),
        ("n", "Integer", "`Segment.tokens`"),
        ("life", "Token, Integer or Decimal", "`Segment.lifetime`"),
        ("scope", "Token", "`Segment.scope`"),
        ("merged", "Integer", "`Segment.merged`"),
    )),
    ("next", "Token", "`Forecast.next`", (
        ("after", "Decimal", "`Forecast.after`"),
        ("sigma", "Decimal", "`Forecast.sigma`"),
        ("width", "Integer", "`Forecast.fan_out`"),
        ("agent", "String", "`Forecast.agent`"),
        ("tokens", "Integer", "`Forecast.output_tokens`"),
    )),
    ("cut", "Inner List of Strings", "`Hints.cut`", ()),
)  # fmt: skip
"""(member, its form, what it holds, its parameters likewise); a test holds them against real headers."""

ACK_MEMBERS: Final = (
    ("v", "Integer 1"),
    ("accepted", "Inner List of Strings"),
    ("clipped", "Inner List of Strings, each with `reason`"),
    ("rejected", "Inner List of Strings, each with `reason`"),
    ("ignored", "Inner List of Strings"),
    ("resync", "true, or absent"),
)


def contract_page() -> str:
    """Returns the page as Markdown."""
    return "\n".join((*_head(), *_types(), *_hints(), *_headers(), *_events(), *_engine(), ""))


def with_dialects(page: str) -> str:
    """Returns the page on dialects with its table made anew.

    Raises:
        ValueError: if the page has no place for it.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks {_BEGIN} or {_END}")
    return f"{before}{_BEGIN}\n\n{dialects_table()}\n\n{_END}{after}"


def dialects_table() -> str:
    """Returns what each stack receives and what is lost, as Markdown."""
    parts = []
    for one in DIALECTS.values():
        changes = "headers and body" if one.headers and one.fields else "body" if one.fields else "headers"
        parts += [
            f"### {one.name}",
            "",
            f"For {one.stack}. Adds to: {changes}."
            + (" Sent by routers alone." if one.sender == "router" else ""),
            "",
            *_table(("it receives", "which is"), one.receives),
            "",
            f"Lost: {one.loses}.",
            "",
        ]
    return "\n".join(parts[:-1])


# --- the page, section by section


def _head() -> Iterable[str]:
    yield "# Contract reference"
    yield ""
    yield (
        "Made from the code of `llmd_agents.hints`. [Hints](hints.md) says how it is meant, "
        "[Chain digests](digests.md) what a digest is. The same as JSON Schema: `llmd-agents hints schema`."
    )
    yield ""
    yield "## Version"
    yield ""
    yield f"This is version {VERSION}. Headers name it as `v`, batches of events as `version`."
    yield ""
    yield from _table(
        ("what a reader meets", "what it does"),
        (
            ("members, parameters, fields, tokens unknown to it", "keeps them if it can, ignores them"),
            ("a header of another version", "says so in the ack (`rejected`: `hints`), acts on none of it"),
            ("an ack of another version", "ignores it"),
            ("a batch of events of another version", "answers 400 with the reason; the client sends on"),
        ),
    )  # fmt: skip
    yield ""
    yield (
        "So a later release of this version may add what earlier ones can ignore. Whatever else changes "
        "makes another version."
    )
    yield ""
    yield "## Limits"
    yield ""
    docs = attribute_docs(limits)
    yield from _table(
        ("limit", "value", "of what"),
        ((f"`{name}`", f"{getattr(limits, name):,}", docs[name]) for name in docs),
    )
    yield ""


def _types() -> Iterable[str]:
    docs = attribute_docs(fields)
    yield "## Field types"
    yield ""
    yield from _table(("type", "values"), ((name, docs[name]) for name in FIELD_TYPES))
    yield ""
    yield "Integers must be integers: `70.0` is not one. Numbers are finite."
    yield ""


def _hints() -> Iterable[str]:
    yield "## What a step declares"
    yield ""
    for model in STEP_MODELS:
        yield from _model(model, "###")
    yield "### Segment types"
    yield ""
    yield from _table(
        ("type", "in the header", "default lifetime", "default scope"),
        (
            (f"`{kind}`", f"`{_token(kind)}`", f"`{DEFAULT_LIFETIME[kind]}`", f"`{DEFAULT_SCOPE[kind]}`")
            for kind in SegmentType
        ),
    )
    yield ""


def _token(kind: SegmentType) -> str:
    """Returns a segment type's short form, as a header shows it."""
    segment = models.Segment(type=kind, digest=bytes(16), size=0)
    step = models.Hints(program=models.Program(id="p"), step=models.Step(id="s"), segments=(segment,))
    return encode_hints(step).partition(";t=")[2].partition(";")[0]


def _headers() -> Iterable[str]:
    yield "## Members of x-llmd-hints"
    yield ""
    most = limits.HEADER_MAX_BYTES
    yield f"An RFC 9651 Dictionary of at most {most} bytes. `program` and `step` are required."
    yield ""
    rows: list[tuple[str, str, str]] = []
    for member, form, holds, parameters in HEADER_MEMBERS:
        rows.append((f"`{member}`", form, holds))
        rows += [(f"`{member}` ; `{name}`", form, holds) for name, form, holds in parameters]
    yield from _table(("member", "form", "what it holds"), rows)
    yield ""
    yield "## Members of x-llmd-ack"
    yield ""
    yield f"An RFC 9651 Dictionary of at most {limits.ACK_MAX_BYTES} bytes."
    yield ""
    docs = field_docs(Ack) | {"v": "The version."}
    yield from _table(
        ("member", "form", "meaning"), ((f"`{name}`", form, docs[name]) for name, form in ACK_MEMBERS)
    )
    yield ""


def _events() -> Iterable[str]:
    yield "## Events"
    yield ""
    yield f"`POST {events.EVENTS_PATH}`"
    yield ""
    for model in (EventBatch, *EVENT_MODELS):
        yield from _model(model, "###")


def _engine() -> Iterable[str]:
    yield "## Residency"
    yield ""
    path = residency.RESIDENCY_PATH
    yield f"`GET {path}`, from engine to router; see [Residency events](hints.md#residency-events)."
    yield ""
    for model in RESIDENCY_MODELS:
        yield from _model(model, "###")
    yield "## Directives"
    yield ""
    yield (
        f"`POST {directives.KV_PATH}`, from router to engine; [Directives](directives.md) shows the "
        "envelope, in which `type` stands as `action_type` and the rest as `payload`."
    )
    yield ""
    for model in DIRECTIVE_MODELS:
        yield from _model(model, "###")


def _model(model: type[BaseModel], level: str) -> Iterable[str]:
    yield f"{level} {model.__name__}"
    yield ""
    yield summary(model)
    yield ""
    docs = field_docs(model)
    hints = get_type_hints(model, include_extras=True)
    yield from _table(
        ("field", "type", "default", "meaning"),
        (
            (f"`{name}`", _type(hints[name]), _default(name, info), docs[name])
            for name, info in model.model_fields.items()
        ),
    )
    yield ""


def _default(name: str, info: FieldInfo) -> str:
    if name == "type" and get_origin(info.annotation) is Literal:
        return "always"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`"


def _type(of: Any) -> str:
    """Returns how a field's type reads, in words."""
    for name, known in FIELD_TYPES.items():
        if of == known:
            return name
    origin, arguments = get_origin(of), get_args(of)
    if origin is Annotated:
        return _type(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return _any(f"`{one}`" for one in arguments)
    if origin in (Union, types.UnionType):
        return _any(_type(one) for one in arguments if one is not type(None))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object of {_type(arguments[1])}"
    if isinstance(of, type) and issubclass(of, Enum):
        return _any(f"`{one.value}`" for one in of)
    if isinstance(of, type) and issubclass(of, BaseModel):
        return f"[{of.__name__}](#{of.__name__.lower()})"
    return {int: "integer", float: "number", bool: "boolean", str: "text"}.get(of, str(of))


def _any(choices: Iterable[str]) -> str:
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _bounds(metadata: tuple[Any, ...]) -> str:
    said = []
    for info in metadata:
        for bound in getattr(info, "metadata", ()):
            for attribute, words in (
                ("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"),
                ("max_length", "at most {}"), ("min_length", "at least {}"),
            ):  # fmt: skip
                if (value := getattr(bound, attribute, None)) is not None:
                    said.append(words.format(value))
    return f" ({', '.join(said)})" if said else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterable[str]:
    names = tuple(head)
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |"


def main(docs: Path) -> None:
    """Writes the pages anew."""
    (docs / CONTRACT_PAGE).write_text(contract_page(), encoding="utf-8")
    page = docs / DIALECTS_PAGE
    page.write_text(with_dialects(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs"))
