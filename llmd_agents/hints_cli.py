"""`llmd-agents hints …`: the contract for people who debug with curl."""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel, ValidationError

app = typer.Typer(
    help="Print the contract, and turn hints into headers and back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_ACK_MEMBERS = frozenset(("accepted", "clipped", "rejected", "ignored", "resync"))


@app.command()
def schema() -> None:
    """Print the JSON Schema of hints, ack and events.

    Example: llmd-agents hints schema | python -m json.tool
    """
    from llmd_agents.hints.schema import contract_schema

    typer.echo(json.dumps(contract_schema(), indent=2, ensure_ascii=False))


@app.command()
def encode(
    source: Annotated[
        str, typer.Argument(metavar="[FILE]", help="Hints as JSON; - or nothing reads standard input.")
    ] = "-",
    dialect: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Add what this stack understands too; repeat for more."),
    ] = None,
    body: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Request body (JSON) that the dialects may add to."),
    ] = None,
    curl: Annotated[bool, typer.Option("--curl", help="Print options for curl.")] = False,
) -> None:
    """Turn hints (JSON) into header lines.

    Members that a dialect adds to the body follow after an empty line.

    \b
    Example:
      echo '{"program": {"id": "p1"}, "step": {"id": "s1"}}' > hints.json
      eval "curl $URL $(llmd-agents hints encode hints.json --body call.json --curl)"
    """
    from llmd_agents.hints import HINTS_HEADER, Hints, HintsTooLong, encode_hints
    from llmd_agents.hints.dialects import DIALECTS, apply_body, apply_headers

    names = tuple(dict.fromkeys(dialect or ()))
    for name in names:
        if name not in DIALECTS:
            _fail(2, f"--dialect: {name!r} is none of {', '.join(DIALECTS)}")
    sent = {} if body is None else _body(body)
    try:
        hints = Hints.model_validate_json(_read(source))
        header = encode_hints(hints)
    except ValidationError as error:
        _fail(1, *_problems(error))
    except HintsTooLong as error:
        _fail(1, f"hints: {error}")
    for path in _unknown(hints):
        typer.echo(f"llmd-agents: {path}: is not known and goes into no header", err=True)
    headers = {HINTS_HEADER: header} | apply_headers(names, hints)
    changed = apply_body(names, hints, sent)
    added = {name: value for name, value in (changed or {}).items() if sent.get(name) != value}
    if curl:
        if changed is not None or body is not None:
            headers["content-type"] = "application/json"
        options = [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]
        if "content-type" in headers:
            options.append(f"-d {shlex.quote(json.dumps(sent if changed is None else changed))}")
        typer.echo(" ".join(options))
        return
    for name, value in headers.items():
        typer.echo(f"{name}: {value}")
    if added:
        typer.echo(f"\n{json.dumps(added, indent=2)}")


@app.command()
def decode(
    value: Annotated[
        str, typer.Argument(metavar="[VALUE]", help="The header; - or nothing reads standard input.")
    ] = "-",
) -> None:
    """Turn a header, of hints or an ack, into JSON.

    Tells too what of it is rejected or ignored. Exits with 1 if nothing of it counts.

    \b
    Example:
      llmd-agents hints decode 'x-llmd-hints: v=1, program="p1", step="s1"'
    """
    from llmd_agents.hints import ACK_HEADER, HINTS_HEADER, UnreadableHints, decode_ack, decode_hints

    name, header = _header(_read("-") if value == "-" else value, (HINTS_HEADER, ACK_HEADER))
    try:
        if name != ACK_HEADER:
            decoded = decode_hints(header)
            if name == HINTS_HEADER or not _ACK_MEMBERS & set(decoded.ignored):
                rejected = [{"hint": one.hint, "reason": one.reason} for one in decoded.rejected]
                hints = None if decoded.hints is None else _plain(decoded.hints)
                _print({"hints": hints, "rejected": rejected, "ignored": list(decoded.ignored)})
                raise typer.Exit(1 if hints is None else 0)
        _print({"ack": _plain(decode_ack(header))})
    except UnreadableHints as error:
        _fail(1, f"{name or 'header'}: {error}")


def _header(text: str, names: tuple[str, ...]) -> tuple[str | None, str]:
    """Splits a header's name off, where it is one of `names`. Several lines of one header count as one."""
    found = None
    values = []
    for line in text.strip().splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip().lower() in names:
            found = name.strip().lower()
            line = value
        values.append(line.strip())
    return found, ", ".join(values)


def _body(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(_read(str(path)))
    except (ValueError, RecursionError) as error:
        _fail(1, f"{path}: is not JSON: {error}")
    if not isinstance(body, dict):
        _fail(1, f"{path}: is not a JSON object")
    return body


def _read(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        _fail(2, f"{source}: {error.strerror}")
    return data.decode("utf-8", "replace")


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"]) or "hints"
        yield f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def _unknown(model: BaseModel, path: str = "") -> Iterator[str]:
    """Yields where a model holds members that it does not know: misspelt ones, as a rule."""
    for name in model.model_extra or ():
        yield f"{path}{name}"
    for name in type(model).model_fields:
        value = getattr(model, name)
        for index, item in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(item, BaseModel):
                where = f"{path}{name}.{index}" if isinstance(value, tuple) else f"{path}{name}"
                yield from _unknown(item, f"{where}.")


def _plain(model: BaseModel) -> Any:
    return model.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def _print(answer: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _fail(code: int, *messages: str) -> NoReturn:
    for message in messages:
        typer.echo(f"llmd-agents: {message}", err=True)
    sys.exit(code)
