"""The `llmd-agents` command. Everything heavy is imported by the command that needs it."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llmd_agents.doctor_cli import doctor
from llmd_agents.hints_cli import app as hints_app

if TYPE_CHECKING:
    from llmd_agents.engine.kv_events_publisher import KvEventPublisher

app = typer.Typer(
    help="Carries what an agent program knows about its model calls to the servers that run them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(hints_app, name="hints")
app.command()(doctor)

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
    observe_only: Annotated[
        bool, typer.Option("--observe-only", help="Read hints and decide, but act on none of it.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(help="Add inputs and decisions to this file: digests, sizes, times.", metavar="FILE"),
    ] = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run the router in front of OpenAI-compatible engines."""
    with _needs("router"):
        from llmd_agents import serving
        from llmd_agents.router import BadConfig, Router, load_config
    given = {"port": port, "host": host, "record": record, "mode": "observe" if observe_only else None}
    overrides: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if engine:
        overrides["engines"] = [{"url": url} for url in engine]
    try:
        settings = load_config(config, overrides)
        server = Router(settings)
    except BadConfig as error:
        _fail(str(error))
    _serve(
        lambda: serving.run(
            server,
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
    dispatch: Annotated[
        str,
        typer.Option(metavar="[fifo|cached-first]", help="Which waiting request is admitted next."),
    ] = "fifo",
    aging_bound: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="With cached-first, who has waited longer goes before all others."
        ),
    ] = 10.0,
    eviction: Annotated[
        str, typer.Option(metavar="[next-use|lru]", help="Which cached block is given up first.")
    ] = "next-use",
    host_blocks: Annotated[
        int | None, typer.Option(help="Blocks of the host tier, in place of the profile's; 0 for none.")
    ] = None,
    storage_blocks: Annotated[
        int | None, typer.Option(help="Blocks of the storage tier, in place of the profile's; 0 for none.")
    ] = None,
    retention_budget: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of each tier that estimates may keep past LRU order."),
    ] = 0.5,
    scripts: Annotated[
        list[Path] | None,
        typer.Option(help="Scripts that requests may name (TOML); repeat for more.", metavar="FILE"),
    ] = None,
    kv_events_endpoint: Annotated[
        str | None,
        typer.Option(help="Publish KV events as vLLM does: tcp://*:5557 binds.", metavar="ADDRESS"),
    ] = None,
    kv_events_topic: Annotated[str, typer.Option(help="Topic of the KV events.", metavar="TOPIC")] = "",
    kv_events_replay_endpoint: Annotated[
        str | None, typer.Option(help="Where missed KV events can be asked for.", metavar="ADDRESS")
    ] = None,
    until_stdin_closes: UntilStdinCloses = False,
) -> None:
    """Run an embedded engine: it models an inference server and its cache, and runs no model."""
    with _needs("engine"):
        from llmd_agents import serving
        from llmd_agents.engine import (
            CachedFirst,
            EngineServer,
            ProfileError,
            first_come_first_served,
            load_profile,
        )
        from llmd_agents.engine.script import Script, ScriptError, read_scripts
    if dispatch not in ("fifo", "cached-first"):
        _fail(f"--dispatch: fifo or cached-first, not {dispatch!r}")
    if eviction not in ("next-use", "lru"):
        _fail(f"--eviction: next-use or lru, not {eviction!r}")
    changes: dict[str, Any] = {
        "block_size": block_size,
        "num_blocks": num_blocks,
        "max_model_len": max_model_len,
        "host_blocks": host_blocks,
        "storage_blocks": storage_blocks,
    }
    try:
        settings = dataclasses.replace(
            load_profile(profile), **{key: value for key, value in changes.items() if value is not None}
        )
        replies: dict[str, Script] = {}
        for path in scripts or ():
            replies.update(read_scripts(path))
    except (ProfileError, ScriptError) as error:
        _fail(str(error))
    kv_events = None
    if kv_events_endpoint is not None:
        kv_events = _kv_events(kv_events_endpoint, kv_events_topic, kv_events_replay_endpoint)
    elif kv_events_topic or kv_events_replay_endpoint:
        _fail("--kv-events-topic and --kv-events-replay-endpoint need --kv-events-endpoint")
    cached_first = dispatch == "cached-first"
    server = EngineServer(
        settings,
        model_names=tuple(model or ()),
        time_scale=time_scale,
        eviction=eviction,
        dispatch=CachedFirst(aging_bound) if cached_first else first_come_first_served,
        protect_waiting=cached_first,
        retention_budget=retention_budget,
        scripts=replies,
        kv_events=kv_events,
    )
    _serve(lambda: serving.run(server, host, port, name="engine", until_stdin_closes=until_stdin_closes))


@app.command()
def replay(
    trace: Annotated[
        list[Path], typer.Argument(help="Recorded coding-agent sessions, or OpenTelemetry spans.")
    ],
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
    """Replay recorded sessions and programs through client, router and engines."""
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
def report(
    file: Annotated[Path, typer.Argument(help="What Report.to_json wrote.")],
    html: Annotated[
        Path | None, typer.Option(help="Write the page to this file instead.", metavar="FILE")
    ] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print the graph instead.")] = False,
) -> None:
    """Show the report of a program that was saved as JSON."""
    from pydantic import ValidationError
    from rich.console import Console

    from llmd_agents.client.report import Report

    try:
        saved = Report.from_json(file.read_bytes())
        if html is not None:
            html.write_text(saved.to_html(), "utf-8")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        _fail(f"{file}: no report: {f'{where}: ' if where else ''}{first['msg']}")
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")
    if mermaid:
        typer.echo(saved.to_mermaid(), nl=False)
    elif html is None:
        Console().print(saved)


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="One pressure and one seed.")] = False,
    program: Annotated[
        list[str] | None, typer.Option(help="Run only this program; repeat for more.", metavar="NAME")
    ] = None,
    pressure: Annotated[
        list[float] | None,
        typer.Option(
            min=0.1, max=10, help="Size of the background's context over that of the caches; repeat for more."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=100, help="Runs to take medians of.")] = None,
    time_scale: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Run the programs over HTTP instead, without background, so many times as fast as modelled.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare four agent programs with hints and without, in virtual time, on a fleet under load."""
    with _needs("bench"):
        from rich.console import Console

        from llmd_agents.demo.demo_command import QUICK_PRESSURE, run_demo
        from llmd_agents.demo.fleet import FleetError
        from llmd_agents.demo.over_http import as_json as http_as_json
        from llmd_agents.demo.over_http import print_over_http, run_over_http
        from llmd_agents.demo.programs import PROGRAMS, ProgramsMissing
        from llmd_agents.demo.report import print_report
        from llmd_agents.demo.results import as_json as results_as_json
        from llmd_agents.demo.scenario import read_scenario
    for name in program or ():
        if name not in PROGRAMS:
            _fail(f"--program: {name!r} is none of {', '.join(PROGRAMS)}")
    if time_scale is not None:
        background = {"--quick": quick, "--pressure": pressure, "--seeds": seeds}
        if given := [option for option, value in background.items() if value]:
            _fail(f"--time-scale: runs seed 1 without background, and so takes no {' or '.join(given)}")
    scenario = read_scenario()
    programs = tuple(dict.fromkeys(program or PROGRAMS))
    try:
        if time_scale is not None:
            found = run_over_http(scenario, programs, time_scale)
            if as_json:
                typer.echo(json.dumps({"programs": http_as_json(found)}))
            else:
                print_over_http(found, Console())
            return
        rows = run_demo(
            scenario,
            programs,
            tuple(dict.fromkeys(pressure or ((QUICK_PRESSURE,) if quick else scenario.pressures))),
            seeds or (1 if quick else scenario.seeds),
        )
    except (FleetError, ProgramsMissing) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(results_as_json(rows, scenario)))
    else:
        print_report(rows, scenario, Console())


@app.command()
def lint(
    trace: Annotated[list[Path], typer.Argument(help="Files of recorded requests; - for standard input.")],
    price_input: Annotated[
        list[str] | None,
        typer.Option(help="Dollars per million input tokens; repeat for models.", metavar="[MODEL=]DOLLARS"),
    ] = None,
    price_cached: Annotated[
        list[str] | None,
        typer.Option(help="The same for tokens from the cache. [default: 0]", metavar="[MODEL=]DOLLARS"),
    ] = None,
    min_tokens: Annotated[
        int, typer.Option(min=1, help="Leave out what costs fewer tokens than this on a turn.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find where prompts stop being prefixes of the next ones, in recorded traffic of any provider.

    Reads JSON lines or an array of request bodies (bare or as "body" of an object, as in batch files), HAR
    files, OpenTelemetry spans with gen_ai.input.messages, and recorded coding-agent sessions. Prices may also
    come from LLMD_AGENTS_PRICE_INPUT and LLMD_AGENTS_PRICE_CACHED. Exits with 1 if something was found, with
    2 if a file cannot be read.
    """
    from llmd_agents.linter.command import BadPrice, BadTraffic, configured_prices, print_report, run_lint
    from llmd_agents.linter.command import as_json as report_as_json

    try:
        linting = run_lint(trace, configured_prices(price_input, price_cached), min_tokens)
    except (BadPrice, BadTraffic) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(report_as_json(linting)))
    else:
        from rich.console import Console

        print_report(linting, Console())
    if len(linting.findings):
        raise typer.Exit(1)


def _kv_events(endpoint: str, topic: str, replay_endpoint: str | None) -> "KvEventPublisher":
    with _needs("kv-events"):
        from llmd_agents.engine.kv_events_publisher import BadEndpoint, KvEventPublisher
    try:
        publisher = KvEventPublisher(endpoint, topic=topic, replay_endpoint=replay_endpoint)
    except BadEndpoint as error:
        _fail(f"KV events: {error}")
    how = "subscribers connect to" if publisher.binds else "connects to"
    replay = f", replay at {publisher.replay_endpoint}" if publisher.replay_endpoint else ""
    typer.echo(f"KV events: {how} {publisher.endpoint}{replay}", err=True)
    return publisher


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
