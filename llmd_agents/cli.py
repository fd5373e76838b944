"""The `llmd-agents` command. Everything heavy is imported by the command that needs it."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    help="Carries what an agent program knows about its model calls to the servers that run them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]


def main() -> None:
    """Runs the command line."""
    app()


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from llmd_agents import __version__

        typer.echo(f"llmd-agents {__version__}")
        raise typer.Exit


@app.command()
def router(
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Base URL of an inference server; repeat for each.", metavar="URL"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 8000]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file (YAML); options given here win.")
    ] = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run the router in front of OpenAI-compatible engines."""
    with _needs("router"):
        from llmd_agents import serving
        from llmd_agents.router import BadConfig, Router, load_config
    overrides: dict[str, Any] = {
        key: value for key, value in {"port": port, "host": host}.items() if value is not None
    }
    if engine:
        overrides["engines"] = [{"url": url} for url in engine]
    try:
        settings = load_config(config, overrides)
    except BadConfig as error:
        _fail(str(error))
    _serve(
        lambda: serving.run(
            Router(settings),
            settings.host,
            settings.port,
            name="router",
            shutdown_timeout_s=settings.shutdown_timeout_s,
            until_stdin_closes=until_stdin_closes,
        )
    )


@app.command()
def engine(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8001,
    host: Host = "127.0.0.1",
    profile: Annotated[
        str, typer.Option(help="Name of a packaged profile, or path of a .toml file.")
    ] = "h100-8b",
    block_size: Annotated[
        int | None, typer.Option(help="Tokens per block, in place of the profile's.")
    ] = None,
    num_blocks: Annotated[
        int | None, typer.Option(help="Blocks of cache, in place of the profile's.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Most tokens of one request, in place of the profile's.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model name to serve; repeat for each. [default: any]")
    ] = None,
    time_scale: Annotated[
        float, typer.Option(min=0.001, help="Modelled seconds that pass in one real second.")
    ] = 1.0,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run an embedded engine: it models an inference server and its cache, and runs no model."""
    with _needs("engine"):
        from llmd_agents import serving
        from llmd_agents.engine import EngineServer, ProfileError, load_profile
    changes: dict[str, Any] = {
        "block_size": block_size,
        "num_blocks": num_blocks,
        "max_model_len": max_model_len,
    }
    try:
        settings = dataclasses.replace(
            load_profile(profile), **{key: value for key, value in changes.items() if value is not None}
        )
    except ProfileError as error:
        _fail(str(error))
    server = EngineServer(settings, model_names=tuple(model or ()), time_scale=time_scale)
    _serve(lambda: serving.run(server, host, port, name="engine", until_stdin_closes=until_stdin_closes))


@app.command()
def replay(
    trace: Annotated[list[Path], typer.Argument(help="Files with one recorded coding-agent session each.")],
    engines: Annotated[int, typer.Option(min=1, max=64, help="Embedded engines to start.")] = 1,
    base_url: Annotated[
        str | None, typer.Option(help="Use this router and its engines instead of starting any.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, help="Divides the gaps between calls, and speeds up the engines.")
    ] = 100.0,
    hints: Annotated[str, typer.Option(metavar="[on|off]", help="Whether the client sends hints.")] = "on",
    cache_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Cache of each engine, in tokens. [default: everything fits]"),
    ] = None,
    max_gap: Annotated[
        float, typer.Option(min=0, help="Cut longer gaps between calls to this many seconds.")
    ] = 3600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay recorded coding-agent sessions as programs through client, router and engines."""
    with _needs("bench"):
        from llmd_agents.demo.replay_command import ReplayFailed, run_replay
    if hints not in ("on", "off"):
        _fail(f"--hints: on or off, not {hints!r}")
    try:
        report = run_replay(
            trace,
            engines=engines,
            base_url=base_url,
            speed=speed,
            hints=hints == "on",
            cache_tokens=cache_tokens,
            max_gap_s=max_gap,
        )
    except ReplayFailed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        report.print()
    if warning := report.warning():
        typer.echo(f"llmd-agents: {warning}", err=True)
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Run a bundled program (a fork of 8 with a join) through the whole stack and show what became of it."""
    with _needs("bench"):
        from llmd_agents.demo.essay_grading import run_demo
        from llmd_agents.demo.fleet import FleetError
    try:
        asyncio.run(run_demo())
    except FleetError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _serve(run: Callable[[], None]) -> None:
    try:
        run()
    except OSError as error:
        _fail(f"cannot listen: {error.strerror}")


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("llmd_agents"):
            raise
        _fail(f"missing package {error.name}; install it with: pip install 'llmd-agents[{extra}]'")


def _fail(message: str) -> NoReturn:
    typer.echo(f"llmd-agents: {message}", err=True)
    sys.exit(2)
