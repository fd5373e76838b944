import asyncio
import json
from typing import Any

import pytest

from llmd_agents.hints import DirectiveOutcome, Warm
from llmd_agents.router import EngineConfig
from llmd_agents.router.priorities import Priorities
from llmd_agents.router.upstream import Outgoing, Sessions
from llmd_agents.router.warm_ups import UNDER_WAY_MAX, WAITING_MAX, WarmUps, warm_up_of
from llmd_agents.runtime import Issued


def call(body: bytes | None, *headers: tuple[str, str], path: str = "/v1/chat/completions") -> Outgoing:
    return Outgoing("POST", path, headers, body)


def warmed(**fields: Any) -> dict[str, Any]:
    request = warm_up_of(call(json.dumps({"model": "m", "messages": [], **fields}).encode()), 7)
    assert request is not None
    assert request.body is not None
    value: dict[str, Any] = json.loads(request.body)
    return value


def test_a_warm_up_is_the_call_with_one_token() -> None:
    assert warmed() == {"model": "m", "messages": [], "max_tokens": 1, "stream": False, "priority": 7}


def test_what_may_not_stand_beside_one_token_is_overridden() -> None:
    asked = {"max_tokens": 500, "max_completion_tokens": 600, "n": 4, "min_tokens": 9, "priority": -5}
    streamed = {"stream": True, "stream_options": {"include_usage": True}, "cache_salt": "s"}
    assert warmed(**asked, **streamed) == {
        "model": "m", "messages": [], "cache_salt": "s", "max_tokens": 1, "max_completion_tokens": None,
        "n": 1, "min_tokens": 0, "priority": 7, "stream": False, "stream_options": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "added"),
    [
        ("/v1/completions", {"max_tokens": 1, "stream": False, "best_of": None, "n": 1}),
        ("/v1/responses", {"max_output_tokens": 1, "stream": False, "store": False, "background": False}),
        (
            "/v1/%72esponses?x=1",
            {"max_output_tokens": 1, "stream": False, "store": False, "background": False},
        ),
    ],
)
def test_each_route_has_its_own_way_to_ask_for_one_token(path: str, added: dict[str, Any]) -> None:
    asked = (
        {"prompt": "x", "n": 2, "best_of": 2} if "store" not in added else {"input": "x", "background": True}
    )
    request = warm_up_of(call(json.dumps(asked).encode(), path=path), None)
    assert request is not None
    assert request.path == path
    assert json.loads(request.body or b"") == {**asked, **added}


def test_its_headers_make_it_no_step_of_a_program() -> None:
    hints = ("x-llmd-hints", "v=1")
    request = warm_up_of(call(b"{}", ("authorization", "Bearer k"), hints, ("X-Vllm-Priority", "-9")), None)
    assert request is not None
    assert request.headers == (("authorization", "Bearer k"), ("x-llmd-warm-up", "1"))
    assert request.body == b'{"max_tokens":1,"stream":false}'


@pytest.mark.parametrize(
    "outgoing",
    [call(None), call(b"[]"), call(b"\xff{}"), call(b"{}\0"), call(b"{}", ("Content-Encoding", "gzip"))],
)
def test_other_bodies_are_left_alone(outgoing: Outgoing) -> None:
    assert warm_up_of(outgoing, 1) is None


class Told:
    """Keeps what became of directives."""

    def __init__(self) -> None:
        self.answered: list[tuple[str, DirectiveOutcome | None]] = []
        self._changed = asyncio.Semaphore(0)

    def __call__(self, issued: Issued, outcome: DirectiveOutcome | None) -> None:
        self.answered.append((issued.id, outcome))
        self._changed.release()

    async def times(self, count: int) -> None:
        for _ in range(count):
            await self._changed.acquire()


def warm(number: int, call_id: int | None) -> Issued:
    return Issued(f"d{number}", "engine-0", Warm(digest=b"x" * 16), "default", call=call_id)


def test_warm_ups_are_few_at_a_time_and_end_with_their_call() -> None:
    async def main() -> list[tuple[str, DirectiveOutcome | None]]:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.release()
            await reader.read()
            writer.close()

        connected = asyncio.Semaphore(0)
        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        told, sessions = Told(), Sessions(connect_timeout_s=2)
        engines = {"engine-0": EngineConfig(url=f"http://127.0.0.1:{port}")}
        warm_ups = WarmUps(engines, Priorities(engines), sessions, told, timeout_s=60)
        warm_ups.hold(1, lambda engine: call(b"{}"))
        for number in range(UNDER_WAY_MAX + WAITING_MAX + 3):
            warm_ups.put(warm(number, 1))
        full = UNDER_WAY_MAX + WAITING_MAX
        assert told.answered == [(f"d{number}", None) for number in range(full, full + 3)]
        for _ in range(UNDER_WAY_MAX):
            await connected.acquire()
        warm_ups.let_go(1)
        warm_ups.cancel()
        await warm_ups.close()
        assert connected.locked()
        await sessions.close()
        server.close()
        await server.wait_closed()
        return told.answered

    answered = asyncio.run(main())
    assert len(answered) == len(dict(answered)) == UNDER_WAY_MAX + WAITING_MAX + 3
    assert {outcome for _, outcome in answered} == {None}


def test_a_call_that_has_ended_warms_nothing() -> None:
    async def main() -> list[tuple[str, DirectiveOutcome | None]]:
        told, sessions = Told(), Sessions(connect_timeout_s=2)
        engines = {"engine-0": EngineConfig(url="http://127.0.0.1:9")}
        warm_ups = WarmUps(engines, Priorities(engines), sessions, told, timeout_s=60)
        warm_ups.put(warm(1, 5))
        warm_ups.hold(6, lambda engine: call(b"not an object"))
        warm_ups.put(warm(2, 6))
        warm_ups.hold(7, lambda engine: call(b"{}"))
        warm_ups.put(warm(3, 7))
        await told.times(3)
        await warm_ups.close()
        await sessions.close()
        return told.answered

    refused = DirectiveOutcome(
        action_id="d2", outcome="rejected", reason="the call's body is not a plain JSON object"
    )
    assert dict(asyncio.run(main())) == {"d1": None, "d2": refused, "d3": None}
