"""The middleware between a server and an application: what each of them sees."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_agents.hints import Hints, Program, Step, encode_hints
from llmd_agents_vllm import middleware
from llmd_agents_vllm.carried import Carried, read
from llmd_agents_vllm.middleware import BODY_MAX_BYTES, CHAT, COMPLETIONS, HintsMiddleware, Message, Scope

HINTS = Hints(program=Program(id="p"), step=Step(id="s"))
HINTS_LINE = (b"x-llmd-hints", encode_hints(HINTS).encode())
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


def scope_of(path: str = CHAT, *headers: tuple[bytes, bytes], method: str = "POST", **more: Any) -> Scope:
    return {"type": "http", "method": method, "path": path, "headers": list(headers), **more}


def parts(*chunks: bytes) -> list[Message]:
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": index < last}
        for index, chunk in enumerate(chunks)
    ]


class Server:
    """Hands out messages in order; then the client has left."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = list(messages)
        self.received = 0

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        self.received += 1
        return self.messages.pop(0) if self.messages else {"type": "http.disconnect"}


async def no_send(message: Message) -> None:
    raise AssertionError("nothing is to be sent")


def run(scope: Scope, messages: list[Message], calls: int | None = None) -> tuple[list[Message], Server]:
    """Returns what the application received in `calls` calls, by default until the client has left."""
    seen: list[Message] = []
    server = Server(messages)

    async def app(_: Scope, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        while (calls is None or len(seen) < calls) and (not seen or seen[-1]["type"] != "http.disconnect"):
            seen.append(await receive())

    asyncio.run(HintsMiddleware(app)(scope, server.receive, no_send))
    return seen, server


def carried_in(message: Message) -> Carried | None:
    return read(json.loads(message["body"]).get("kv_transfer_params"))


def test_chat_completions_carry_chain_and_hints_and_the_right_length() -> None:
    scope = scope_of(CHAT, (b"Content-Length", b"%d" % len(BODY)), HINTS_LINE)
    seen, _ = run(scope, parts(BODY))
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
    carried = carried_in(seen[0])
    assert carried is not None
    assert carried.hints == HINTS
    assert len(carried.links) == 2
    assert scope["headers"][0] == (b"Content-Length", b"%d" % len(seen[0]["body"]))


def test_a_holder_of_the_headers_sees_the_length_change() -> None:
    scope = scope_of(CHAT, (b"content-length", b"%d" % len(BODY)))
    held = scope["headers"]
    seen, _ = run(scope, parts(BODY))
    assert held == [(b"content-length", b"%d" % len(seen[0]["body"]))]


def test_headers_in_a_tuple_are_taken_as_well() -> None:
    scope = {**scope_of(), "headers": ((b"content-length", b"60"), HINTS_LINE)}
    seen, _ = run(scope, parts(BODY))
    assert scope["headers"][0] == (b"content-length", b"%d" % len(seen[0]["body"]))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_in_chunks_becomes_one(size: int) -> None:
    chunks = [BODY[i : i + size] for i in range(0, len(BODY), size)]
    seen, _ = run(scope_of(CHAT, (b"transfer-encoding", b"chunked")), parts(*chunks, b""))
    assert len(seen) == 2
    assert seen[0]["more_body"] is False
    assert carried_in(seen[0]) is not None


def test_chat_completions_without_a_header_carry_the_chain() -> None:
    seen, _ = run(scope_of(), parts(BODY))
    carried = carried_in(seen[0])
    assert carried is not None
    assert carried.hints is None


def test_completions_carry_hints_only() -> None:
    body = b'{"model":"m","prompt":"hello"}'
    seen, _ = run(scope_of(COMPLETIONS, HINTS_LINE), parts(body))
    assert carried_in(seen[0]) == Carried((), HINTS)


def test_several_lines_of_the_header_are_one_dictionary() -> None:
    whole = encode_hints(HINTS)
    lines = [(b"x-llmd-hints", part.encode()) for part in whole.split(", ")]
    assert len(lines) > 1
    seen, _ = run(scope_of(CHAT, *lines), parts(BODY))
    carried = carried_in(seen[0])
    assert carried is not None
    assert carried.hints == HINTS


@pytest.mark.parametrize(
    "scope",
    [
        scope_of("/v1/embeddings", HINTS_LINE),
        scope_of("/v1/chat/completions/batch", HINTS_LINE),
        scope_of(CHAT, HINTS_LINE, method="GET"),
        scope_of(CHAT, HINTS_LINE, (b"Content-Encoding", b"gzip")),
        {"type": "websocket", "path": CHAT, "headers": []},
        {"type": "lifespan"},
    ],
    ids=str,
)
def test_everything_else_passes_untouched(scope: Scope) -> None:
    messages = parts(BODY[:10], BODY[10:])
    before = {**scope, "headers": list(scope.get("headers", []))}
    seen, _ = run(scope, messages)
    assert seen == [*messages, {"type": "http.disconnect"}]
    assert {**scope, "headers": scope.get("headers", [])} == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"a":1,"a":2}'])
def test_a_body_that_takes_no_hints_passes_untouched(body: bytes) -> None:
    messages = parts(body[:1], body[1:])
    assert run(scope_of(), messages)[0] == [*messages, {"type": "http.disconnect"}]


def test_behind_a_root_path() -> None:
    seen, _ = run(scope_of("/prefix" + CHAT, root_path="/prefix"), parts(BODY))
    assert carried_in(seen[0]) is not None


def app_with(kv_transfer_config: Any) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(vllm_config=SimpleNamespace(kv_transfer_config=kv_transfer_config))
    )


def test_without_a_connector_nothing_is_added() -> None:
    messages = parts(BODY)
    assert run(scope_of(CHAT, HINTS_LINE, app=app_with(None)), messages)[0][0] is messages[0]
    assert carried_in(run(scope_of(CHAT, HINTS_LINE, app=app_with(object())), messages)[0][0]) is not None
    assert carried_in(run(scope_of(CHAT, HINTS_LINE, app=SimpleNamespace()), messages)[0][0]) is not None


def test_nothing_is_read_for_an_application_that_turns_the_request_away() -> None:
    seen, server = run(scope_of(CHAT, HINTS_LINE), parts(BODY), calls=0)
    assert (seen, server.received) == ([], 0)


def test_a_client_that_leaves_within_the_body_is_seen_to_leave() -> None:
    messages = [parts(BODY, b"")[0], {"type": "http.disconnect"}]
    assert run(scope_of(CHAT, HINTS_LINE), messages)[0] == messages


def test_after_the_body_the_application_waits_for_the_client_as_before() -> None:
    seen, server = run(scope_of(CHAT, HINTS_LINE), parts(BODY), calls=1)
    assert (len(seen), server.received) == (1, 1)


def test_too_long_a_body_streams_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_MAX_BYTES", 20)
    messages = parts(BODY[:15], BODY[15:30], BODY[30:])
    seen, server = run(scope_of(CHAT, HINTS_LINE), messages, calls=1)
    assert seen == messages[:1]
    assert server.received == 2
    assert run(scope_of(CHAT, HINTS_LINE), messages)[0] == [*messages, {"type": "http.disconnect"}]


def test_the_limit_is_of_the_body_not_beyond() -> None:
    assert len(BODY) < BODY_MAX_BYTES


def test_a_large_body_is_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "THREAD_FROM_BYTES", 10)
    used = []

    async def to_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        used.append(function)
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    assert carried_in(run(scope_of(CHAT), parts(BODY))[0][0]) is not None
    assert len(used) == 1


def test_a_fault_of_ours_lets_the_call_pass(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(body: bytes, header: bytes | None) -> bytes:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(middleware, "fold", broken)
    messages = parts(BODY[:5], BODY[5:])
    assert run(scope_of(CHAT, HINTS_LINE), messages)[0] == [*messages, {"type": "http.disconnect"}]
    assert "goes on without them" in caplog.text


def test_a_cancelled_receive_can_be_called_again() -> None:
    async def story() -> Message:
        chunks: asyncio.Queue[Message] = asyncio.Queue()
        first, second = parts(BODY[:20], BODY[20:])
        received: list[Message] = []

        async def app(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
            chunks.put_nowait(first)
            waiting = asyncio.ensure_future(receive())
            for _turn in range(5):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            chunks.put_nowait(second)
            received.append(await receive())

        await HintsMiddleware(app)(scope_of(), chunks.get, no_send)
        return received[0]

    assert carried_in(asyncio.run(story())) is not None


def test_concurrent_calls_do_not_mix() -> None:
    bodies = [b'{"messages":[{"role":"user","content":"%d"}]}' % index for index in range(20)]
    seen: dict[bytes, Message] = {}

    async def app(scope: Scope, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        seen[scope["headers"][0][1]] = await receive()

    async def story() -> None:
        wrapped = HintsMiddleware(app)
        await asyncio.gather(
            *(
                wrapped(
                    scope_of(CHAT, (b"n", b"%d" % index)), Server(parts(body[:9], body[9:])).receive, no_send
                )
                for index, body in enumerate(bodies)
            )
        )

    asyncio.run(story())
    for index, body in enumerate(bodies):
        assert seen[b"%d" % index]["body"].startswith(body[:-1])
