"""Real vLLM engines as processes of their own, on free ports of the loopback."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import httpx

from .counters import Counters, scrape
from .environment import variables
from .shared_memory import remove_regions, with_engine_id

READY_S: Final = 300.0
"""Seconds until an engine must answer; alone it takes about 25."""

_PORTS: Final = range(20_000, 32_000)
"""Engines listen on these: below those that the system gives to outgoing connections."""

_ROOT: Final = Path(__file__).parents[1]


class EngineFailed(RuntimeError):
    """An engine ended, or did not answer in time; the message ends with its last words."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How one engine is started.

    Attributes:
        num_blocks: blocks of 32 tokens on the device; more than max_model_len / 32, as one is never used.
        kv_transfer_config: as vLLM's option, without `engine_id`.
        flags: further options of `vllm serve`.
        environment: further environment variables.
    """

    num_blocks: int = 160
    max_model_len: int = 4096
    max_num_seqs: int = 16
    kv_transfer_config: Mapping[str, Any] | None = None
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Engine:
    """A running engine; `url` is without `/v1`, and the model is called `tiny`.

    Attributes:
        start: starts it, at the same address and with the same options.
        process: what `start` returned last.
        client: of its server.
    """

    url: str
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def kill(self) -> None:
        """Ends it as a crash of the machine would: none of its processes is told."""
        assert self.process.stdin is not None
        with self.process.stdin as guard:
            guard.write(b"kill")
        self.process.wait(60)

    def end(self) -> None:
        """Asks it to end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def restart(self, ready_s: float = READY_S) -> None:
        """Starts it again after `kill`, and waits until it answers.

        Raises:
            EngineFailed: if it does not start.
        """
        self.process = self.start()
        _wait_until_ready(self, time.monotonic() + ready_s)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> dict[str, Any]:
        """Returns the answer to a chat completion of 8 tokens, unless `body` says otherwise."""
        body = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, **body}
        body = {"model": "tiny", "messages": list(messages), **body}
        response = self.client.post("/v1/chat/completions", json=body, headers=headers)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer

    def counters(self) -> Counters:
        return scrape(self.url)


def cached_tokens(answer: Mapping[str, Any]) -> int:
    """Returns how many prompt tokens of an answered call were cached."""
    details = answer["usage"]["prompt_tokens_details"]
    return int(details["cached_tokens"]) if details else 0


@contextmanager
def engines(
    model: Path, folder: Path, *options: EngineOptions, ready_s: float = READY_S
) -> Iterator[list[Engine]]:
    """Runs one engine for each of `options`, all started at once; they end with the block, whatever happens.

    Args:
        model: the folder that `tiny_model` wrote.
        folder: for logs (`engine-0.log`, …) and for the engines' caches.
        ready_s: seconds until all must answer.

    Raises:
        EngineFailed: if one does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        ports = _free_ports(len(options))
        started = [
            stack.enter_context(_engine(model, folder, index, port, one))
            for index, (port, one) in enumerate(zip(ports, options, strict=True))
        ]
        deadline = time.monotonic() + ready_s
        for engine in started:
            _wait_until_ready(engine, deadline)
        try:
            yield started
        finally:
            for engine in started:  # all at once, before each is waited for
                engine.end()


@contextmanager
def _engine(model: Path, folder: Path, index: int, port: int, options: EngineOptions) -> Iterator[Engine]:
    url, log = f"http://127.0.0.1:{port}", folder / f"engine-{index}.log"
    config = None if options.kv_transfer_config is None else with_engine_id(options.kv_transfer_config)
    command = [sys.executable, "-m", "harness.guard", sys.executable, "-m", "vllm.entrypoints.cli.main"]
    command += ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), *_flags(options, config)]
    paths = [str(_ROOT), options.environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        **variables(folder / "home"),
        "VLLM_LOGGING_LEVEL": "INFO",
        # The harness may run vLLM in its own process too; that is no setting for engines with servers.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        **options.environment,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    with log.open("wb") as output, httpx.Client(base_url=url, timeout=120) as client:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

        engine = Engine(url, log, start, start(), client)
        try:
            yield engine
        finally:
            engine.end()
            engine.process.wait(60)
            if config is not None:
                remove_regions(config["engine_id"])


def _flags(options: EngineOptions, kv_transfer_config: Mapping[str, Any] | None) -> list[str]:
    flags = ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    flags += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--block-size", "32"]
    flags += ["--num-gpu-blocks-override", str(options.num_blocks)]
    flags += ["--max-model-len", str(options.max_model_len), "--max-num-seqs", str(options.max_num_seqs)]
    # Model and scheduler in one process, as on a GPU: on a CPU vLLM would part them, to bind threads to
    # cores, and a process more takes ten seconds to start.
    flags += ["--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"]
    if kv_transfer_config is not None:
        flags += ["--kv-transfer-config", json.dumps(kv_transfer_config)]
    return [*flags, *options.flags]


def _wait_until_ready(engine: Engine, deadline: float) -> None:
    while time.monotonic() < deadline:
        if engine.process.poll() is not None:
            raise EngineFailed(f"the engine ended while it started:\n{_last_words(engine.log)}")
        try:
            if engine.client.get("/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise EngineFailed(f"the engine does not answer:\n{_last_words(engine.log)}")


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])


def _free_ports(count: int) -> list[int]:
    """Returns ports that nobody listens on now, and that no outgoing connection takes before an engine does.

    Raises:
        EngineFailed: if there are not so many.
    """
    found: list[int] = []
    with ExitStack() as held:  # until all are found, so that they differ
        for port in SystemRandom().sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                return found
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found.append(port)
    raise EngineFailed(f"fewer than {count} ports are free of {_PORTS.start} to {_PORTS.stop - 1}")
