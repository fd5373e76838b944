"""A fleet on this machine: embedded engines and a router, each a process of its own."""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS = 60.0
STOP_SECONDS = 5.0


class FleetError(RuntimeError):
    """A process of the fleet did not start; says which."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Addresses of a running fleet, without `/v1`."""

    router: str
    engines: tuple[str, ...]


@contextlib.contextmanager
def local_fleet(engines: int, engine_options: Sequence[str] = ()) -> Iterator[Fleet]:
    """Starts engines and a router on free loopback ports, and stops them at the end of the block.

    The processes also stop by themselves when this one ends, however it ends.

    Args:
        engine_options: passed to each `llmd-agents engine`.

    Raises:
        FleetError: if a process does not get to listen.
    """
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_process(["engine", "--port", "0", *engine_options])) for _ in range(engines)
        ]
        urls = tuple(_listening_url(process, "engine") for process in started)
        yield Fleet(stack.enter_context(local_router(urls)), urls)


@contextlib.contextmanager
def local_router(engines: Sequence[str], options: Sequence[str] = ()) -> Iterator[str]:
    """Starts a router in front of engines that run already, and stops it at the end of the block.

    Args:
        engines: their addresses.
        options: passed to `llmd-agents router`.

    Returns:
        Its address, without `/v1`.

    Raises:
        FleetError: if it does not get to listen.
    """
    addresses = [option for url in engines for option in ("--engine", url)]
    with _process(["router", "--port", "0", *addresses, *options]) as router:
        yield _listening_url(router, "router")


@contextlib.contextmanager
def _process(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    # The child watches its standard input: it ends when that closes, even if this process is killed.
    # A session of its own keeps Ctrl-C here from reaching it before the program has been wound up.
    process = subprocess.Popen(  # noqa: S603  (our own program, no shell)
        [sys.executable, "-m", "llmd_agents", *arguments, "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _listening_url(process: subprocess.Popen[bytes], name: str) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(deadline - time.monotonic()):
            raise FleetError(f"the {name} did not start within {START_SECONDS:g} s")
    line = process.stdout.readline().decode()
    if " listening on " not in line:
        raise FleetError(f"the {name} did not start (exit code {process.poll()}); its error is above")
    return line.rsplit(" ", 1)[1].strip()
