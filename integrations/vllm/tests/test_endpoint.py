"""What the routes answer, over the real way to a connector; the engine behind it is a few lines."""

import asyncio
import json
import logging
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from vllm.v1.engine.exceptions import EngineDeadError

from llmd_agents.hints import (
    KV_PATH,
    RESIDENCY_PATH,
    Directive,
    DirectiveOutcome,
    Release,
    encode_directives,
)
from llmd_agents_vllm import endpoint, engine_call
from llmd_agents_vllm.connector import AgentConnector
from llmd_agents_vllm.device.directives import Ahead
from llmd_agents_vllm.endpoint import ACTIONS_AT_ONCE, AgentRoutes, add_routes
from llmd_agents_vllm.plugins import Endpoint


class Side:
    """The scheduler's side of a connector. `fails_at`: the action at which it has a fault."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.done = 0

    def carry_out(self, action_id: str, directive: Directive, now: float) -> DirectiveOutcome | Ahead:
        if self.done == self.fails_at:
            raise ZeroDivisionError
        self.done += 1
        return DirectiveOutcome(action_id=action_id, outcome="applied", tokens=self.done)

    def kv(self, now: float) -> Any:
        return SimpleNamespace(model_dump=lambda mode: {"epoch": "e"})

    def residency(self, since: int | None, epoch: str | None, now: float) -> list[Any]:
        batch = {"seq": 1, "epoch": "e", "changes": []}
        return [SimpleNamespace(model_dump=lambda mode: batch)] if since is None else []

    def close(self) -> None:
        pass


class Engine:
    """vLLM's client of an engine, and that engine. `before` is awaited in each call, with its number."""

    def __init__(self, side: Side | None = None, cores: int = 1) -> None:
        connector = AgentConnector.__new__(AgentConnector)
        connector.engine_side = side or Side()  # type: ignore[assignment]
        self._core: Any = SimpleNamespace(scheduler=SimpleNamespace(get_kv_connector=lambda: connector))
        self.core_engines = [rank.to_bytes(2, "little") for rank in range(cores)]
        self.engine_core = self
        self.calls = 0

    async def before(self, call: int) -> None:
        pass

    async def call_utility_async(self, method: str, what: str, argument: str) -> str:
        assert method == engine_call.METHOD
        self.calls += 1
        await self.before(self.calls)
        return engine_call._answer(self._core, what, argument)


class DiesAt(Engine):
    def __init__(self, call: int) -> None:
        super().__init__()
        self._call = call

    async def before(self, call: int) -> None:
        if call >= self._call:
            raise EngineDeadError


class Waits(Engine):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def before(self, call: int) -> None:
        self.asked.set()
        await self.may.wait()


def app_of(engine: Engine) -> FastAPI:
    app = FastAPI()
    add_routes(app)
    app.state.agent_routes = AgentRoutes(engine, by_priority=True)
    return app


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
        yield client


def asked(app: FastAPI, method: str, path: str, content: bytes | None = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with client_of(app) as client:
            return await client.request(method, path, content=content)

    return asyncio.run(ask())


def directed(engine: Engine, actions: int) -> httpx.Response:
    message = encode_directives("m1", [(f"a{at}", Release(digest=bytes(16))) for at in range(actions)])
    return asked(app_of(engine), "POST", KV_PATH, message)


def test_actions_are_answered_in_their_order() -> None:
    side = Side()
    answer = directed(Engine(side), 3 * ACTIONS_AT_ONCE)
    assert answer.status_code == 200
    outcomes = answer.json()["outcomes"]
    assert [each["action_id"] for each in outcomes] == [f"a{at}" for at in range(3 * ACTIONS_AT_ONCE)]
    assert [each["tokens"] for each in outcomes] == list(range(1, side.done + 1))


@pytest.mark.parametrize("fails_at", [1, ACTIONS_AT_ONCE - 1, ACTIONS_AT_ONCE, ACTIONS_AT_ONCE + 8])
def test_what_was_done_before_a_fault_is_told(fails_at: int) -> None:
    side = Side(fails_at)
    answer = directed(Engine(side), 3 * ACTIONS_AT_ONCE)
    assert answer.status_code == 200
    assert answer.json()["message_id"] == "m1"
    outcomes = answer.json()["outcomes"]
    assert [each["action_id"] for each in outcomes] == [f"a{at}" for at in range(3 * ACTIONS_AT_ONCE)]
    done, rest = outcomes[:fails_at], outcomes[fails_at:]
    assert {each["outcome"] for each in done} == {"applied"}
    assert {each["outcome"] for each in rest} == {"rejected"}
    assert all("AgentConnector" in each["reason"] for each in rest)


def test_nothing_done_is_501() -> None:
    answer = directed(Engine(Side(fails_at=0)), 3)
    assert answer.status_code == 501
    assert "AgentConnector has failed" in answer.json()["error"]["message"]


def test_what_was_done_before_the_engine_died_is_told() -> None:
    answer = directed(DiesAt(call=2), ACTIONS_AT_ONCE + 2)
    assert answer.status_code == 200
    outcomes = answer.json()["outcomes"]
    assert [each["outcome"] for each in outcomes] == ["applied"] * ACTIONS_AT_ONCE + ["rejected"] * 2
    assert outcomes[-1]["reason"] == "the engine does not answer: EngineDeadError"


@pytest.mark.parametrize(("method", "path"), [("GET", KV_PATH), ("POST", KV_PATH), ("GET", RESIDENCY_PATH)])
def test_an_engine_that_does_not_answer_is_503(method: str, path: str) -> None:
    message = encode_directives("m1", [("a", Release(digest=bytes(16)))]) if method == "POST" else None
    answer = asked(app_of(DiesAt(call=1)), method, path, message)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the engine does not answer: EngineDeadError"


def test_an_engine_that_starts_is_503() -> None:
    app = FastAPI()
    add_routes(app)
    assert asked(app, "GET", KV_PATH).status_code == 503


def test_an_engine_without_the_connector_is_501() -> None:
    engine = Engine()
    engine._core.scheduler.get_kv_connector = lambda: None
    answer = asked(app_of(engine), "GET", RESIDENCY_PATH)
    assert answer.status_code == 501
    assert answer.json()["error"]["message"] == "the engine runs without AgentConnector"


# --- data parallelism


def served(engine: Engine) -> FastAPI:
    """As vLLM brings the routes up."""

    async def start() -> FastAPI:
        app = FastAPI()
        plugin = Endpoint()
        plugin.attach_router(app)
        await plugin.init_state(engine, app.state, Namespace(scheduling_policy="priority"))
        return app

    return asyncio.run(start())


def test_several_engines_behind_one_server_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(cores=2)
    with caplog.at_level(logging.WARNING, logger="vllm.llmd_agents"):
        app = served(engine)
        answers = [
            asked(app, "GET", KV_PATH),
            asked(app, "POST", KV_PATH, encode_directives("m1", [])),
            asked(app, "GET", RESIDENCY_PATH),
        ]
    assert [answer.status_code for answer in answers] == [501, 501, 501]
    assert {answer.json()["error"]["message"] for answer in answers} == {"data parallelism is not supported"}
    assert engine.calls == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "data parallelism is not supported, and 2 engines are behind this server" in line


def test_one_engine_behind_each_server_is_served(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vllm.llmd_agents"):
        answer = asked(served(Engine(cores=1)), "GET", KV_PATH)
    assert (answer.status_code, answer.json()) == (200, {"epoch": "e"})
    assert not caplog.records


# --- subscribers


class Subscriber:
    """A client of the stream; `chunks` is what it got, `status` None until it is answered."""

    def __init__(self, app: FastAPI, *, accepts: bool = True) -> None:
        self.status: int | None = None
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._accepts = accepts
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": RESIDENCY_PATH,
            "raw_path": RESIDENCY_PATH.encode(),
            "query_string": b"",
            "headers": [],
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if not self._accepts:
            raise ConnectionResetError
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.chunks.put_nowait(message["body"])

    async def leave(self) -> None:
        self.gone.set()
        await self.task


@pytest.fixture
def one_subscriber(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "SUBSCRIBERS_MAX", 1)
    monkeypatch.setattr(endpoint, "LOOK_S", 0.001)


async def takes_one_more(app: FastAPI) -> None:
    """Checks that the only place is free."""
    subscriber = Subscriber(app)
    first = await subscriber.chunks.get()
    assert subscriber.status == 200
    assert json.loads(first.removeprefix(b"data: "))["seq"] == 1
    await subscriber.leave()


@pytest.mark.usefixtures("one_subscriber")
def test_a_subscriber_has_its_place_while_the_engine_is_asked() -> None:
    async def story() -> None:
        engine = Waits()
        app = app_of(engine)
        first = Subscriber(app)
        await engine.asked.wait()
        second = Subscriber(app)
        await second.task
        assert (first.status, second.status) == (None, 429)
        engine.may.set()
        await first.chunks.get()
        assert first.status == 200
        await first.leave()
        await takes_one_more(app)

    asyncio.run(story())


@pytest.mark.usefixtures("one_subscriber")
def test_a_stream_that_never_starts_gives_its_place_back() -> None:
    async def story() -> None:
        app = app_of(Engine())
        with pytest.raises(ConnectionResetError):
            await Subscriber(app, accepts=False).task
        await takes_one_more(app)

    asyncio.run(story())


@pytest.mark.usefixtures("one_subscriber")
def test_an_engine_that_cannot_answer_takes_no_place() -> None:
    async def story() -> None:
        engine = DiesAt(call=1)
        app = app_of(engine)
        subscriber = Subscriber(app)
        await subscriber.task
        assert subscriber.status == 503
        engine._call = 1000
        await takes_one_more(app)

    asyncio.run(story())


@pytest.mark.usefixtures("one_subscriber")
def test_a_cancelled_subscription_gives_its_place_back() -> None:
    async def story() -> None:
        engine = Waits()
        app = app_of(engine)
        subscriber = Subscriber(app)
        await engine.asked.wait()
        subscriber.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscriber.task
        engine.may.set()
        await takes_one_more(app)

    asyncio.run(story())


@pytest.mark.usefixtures("one_subscriber")
def test_a_stream_ends_with_the_engine_and_gives_its_place_back() -> None:
    async def story() -> None:
        engine = DiesAt(call=3)
        app = app_of(engine)
        await Subscriber(app).task
        engine._call = 1000
        await takes_one_more(app)

    asyncio.run(story())


class _FastClock(asyncio.SelectorEventLoop):
    """Its time can be put ahead."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class _Slow(Engine):
    """Takes a quarter of a heartbeat for each answer."""

    async def before(self, call: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _FastClock)
        loop.ahead += endpoint.HEARTBEAT_S / 4


def test_a_silent_stream_is_kept_alive_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LOOK_S", 0.0)

    async def story() -> None:
        engine = _Slow()
        subscriber = Subscriber(app_of(engine))
        assert (await subscriber.chunks.get()).startswith(b"data: ")
        for beat in range(1, 4):
            async with asyncio.timeout(1000):
                assert await subscriber.chunks.get() == endpoint.HEARTBEAT
            assert engine.calls <= 2 + 5 * beat
        await subscriber.leave()

    with asyncio.Runner(loop_factory=_FastClock) as runner:
        runner.run(story())
