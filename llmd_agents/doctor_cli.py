"""`llmd-agents doctor`: what the server in front of an application does with hints."""

import json
from typing import Annotated

import typer


def doctor(
    base_url: Annotated[
        str, typer.Option(metavar="URL", help="The server's base URL, as an OpenAI client takes it.")
    ],
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="OPENAI_API_KEY", show_envvar=True, show_default=False, help="Sent as a bearer token."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model to call. [default: the first that is listed]")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, metavar="SECONDS", help="Longest wait for one answer.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell which hints, dialects and routes a server honours, by trying them.

    Makes some fifteen model calls of a token each, with about 8,000 prompt tokens in all: a paid provider
    charges for them. Exits with 0 if the server can be used, with 1 if not.
    """
    from rich.console import Console

    from llmd_agents.doctor import Unusable, diagnose
    from llmd_agents.doctor.advice import advice
    from llmd_agents.doctor.diagnosis import CALLS_MAX, CALLS_TYPICAL, PROMPT_TOKENS_TYPICAL
    from llmd_agents.doctor.table import print_diagnosis

    notes = Console(stderr=True)
    try:
        notes.print(
            f"About {CALLS_TYPICAL} model calls (at most {CALLS_MAX}) with some {PROMPT_TOKENS_TYPICAL:,} "
            "prompt tokens; a paid provider charges for them.",
            style="dim",
            soft_wrap=True,
        )
        with notes.status("trying …") as shown:
            found = diagnose(
                base_url,
                api_key=api_key or None,
                model=model,
                timeout=timeout,
                on_finding=lambda one: shown.update(f"{one.group}: {one.title}"),
            )
    except Unusable as error:
        typer.echo(f"llmd-agents: {error}", err=True)
        raise typer.Exit(2 if error.usage else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    told = advice(found)
    if as_json:
        typer.echo(json.dumps(found.as_json(told), ensure_ascii=False))
    else:
        print_diagnosis(found, told, Console())
