"""A recording OpenAI-compatible server: real HTTP on loopback, from a thread of its own.

POST /v1/chat/completions  /v1/completions  /v1/responses     streamed or not, as the script says
POST /v1/embeddings                                           made-up vectors
GET  /v1/responses/{id}  /v1/models  /v1/models/{id}
POST /v1/agent/events                                         lifecycle events
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from llmd_agents import serving
from llmd_agents.hints import (
    EVENTS_PATH,
    UNDECLARED,
    Event,
    Hints,
    ProgramFinished,
    Rejection,
    UnreadableHints,
)
from llmd_agents.serving import Receive, Scope, Send

from .answers import Answer, Failure, Hangup
from .chat import streamed_chat, streamed_completion, whole_chat, whole_completion
from .embeddings import embeddings
from .exchange import Exchange
from .graph import ProgramGraph, program_graphs
from .request import CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH, RecordedRequest
from .responses import streamed_response, whole_response
from .script import Line, Script, Told
from .spoken import Spoken

KEEP = 10_000
BODY_MAX_BYTES = 64 << 20
RESPONSES_MAX = 1000
"""How many responses are remembered for `previous_response_id`."""

_WHOLE = {CHAT_PATH: whole_chat, COMPLETIONS_PATH: whole_completion, RESPONSES_PATH: whole_response}
_STREAMED = {
    CHAT_PATH: streamed_chat,
    COMPLETIONS_PATH: streamed_completion,
    RESPONSES_PATH: streamed_response,
}
_RESPONSE_PREFIX = f"{RESPONSES_PATH}/"
_MODELS_PATH = "/v1/models"


class RecordingServer:
    """Keeps every request and answers model calls by a script. Made by `recording_server`.

    Attributes:
        url: where it listens, such as `http://127.0.0.1:40001`.
        script: what it answers to model calls.
        models: what `/v1/models` lists; calls may name any model.
        events_status: what lifecycle events are answered with; 404 for a server that takes none. Unless it is
            202, they do not count as received.
        forgotten: how many requests are kept no more, because there were more than `keep`.
    """

    def __init__(
        self,
        script: Script,
        *,
        models: Collection[str] = ("test-model",),
        events_status: int = 202,
        keep: int = KEEP,
    ) -> None:
        self.url = ""
        self.script = script
        self.models = tuple(models)
        self.events_status = events_status
        self.forgotten = 0
        self._requests: deque[RecordedRequest] = deque(maxlen=keep)
        self._responses: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._replies = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    @property
    def base_url(self) -> str:
        """For an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests that are kept, in the order of their arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def calls(self) -> list[RecordedRequest]:
        """The model calls among the requests, each attempt by itself."""
        return [request for request in self.requests if request.is_model_call]

    @property
    def hints(self) -> list[Hints]:
        """What the model calls declare; calls without readable hints are left out."""
        return [request.hints for request in self.calls if request.hints is not None]

    @property
    def events(self) -> list[Event]:
        """The lifecycle events that were received, in the order of their arrival."""
        return [event for event in self._events() if not isinstance(event, Rejection)]

    @property
    def rejected(self) -> list[Rejection]:
        """What was wrong with hints and events."""
        bad_hints = [rejection for request in self.requests for rejection in request.rejected]
        return bad_hints + [event for event in self._events() if isinstance(event, Rejection)]

    def graphs(self, *, timeout: float = 5.0) -> list[ProgramGraph]:
        """Waits for the events under way (`settle`), and returns the graph of each program that was seen.

        Raises:
            TimeoutError: if a program has not finished within `timeout` seconds.
        """
        self.settle(timeout=timeout)
        return self._graphs()

    def graph(self, name: str | None = None, *, timeout: float = 5.0) -> ProgramGraph:
        """Returns the graph of the only program (of that name) that was seen.

        Raises:
            LookupError: if there is none, or more than one.
            TimeoutError: if a program has not finished within `timeout` seconds.
        """
        seen = self.graphs(timeout=timeout)
        found = [graph for graph in seen if name is None or graph.name == name]
        if len(found) == 1:
            return found[0]
        wanted = "one program" if name is None else f"one program {name!r}"
        raise LookupError(f"expected {wanted}; seen: {', '.join(map(str, seen)) or 'none'}")

    def settle(self, *, timeout: float = 5.0) -> None:
        """Waits until each declared program that made a call is known to have finished.

        Events travel in the background; the end of a program's block waits for them, but not for long. It
        returns at once if the server takes no events, and does not wait for programs that nobody declared.
        The calling thread is blocked: in a coroutine whose programs still run, use `asyncio.to_thread`.

        Raises:
            TimeoutError: if that takes more than `timeout` seconds; it names the programs.
        """
        if self.events_status == 202 and not self._wait(lambda: not self._unfinished(), timeout):
            names = ", ".join(self._unfinished())
            raise TimeoutError(f"not finished within {timeout} s: {names}. Is its block still open?")

    def wait_for(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:
        """Waits until `condition`, which is asked again after each request and answer.

        Raises:
            TimeoutError: if that takes more than `timeout` seconds.
        """
        if not self._wait(condition, timeout):
            raise TimeoutError(f"did not come true within {timeout} s of {len(self.requests)} requests")

    def close(self) -> None:
        """Ends the answers that wait. Called when the server stops."""
        self._stopping.set()

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _events(self) -> Iterator[Event | Rejection]:
        for request in self.requests:
            if request.path == EVENTS_PATH and request.status == 202:
                yield from request.events

    def _graphs(self) -> list[ProgramGraph]:
        calls = [(request, request.hints) for request in self.calls]
        answered = {_step_key(hints) for request, hints in calls if hints and not request.failed}
        failed = {_step_key(hints) for request, hints in calls if hints and request.failed}
        return program_graphs([*self.hints, *self.events], failed=failed - answered)

    def _unfinished(self) -> list[str]:
        finished = {event.program for event in self.events if isinstance(event, ProgramFinished)}
        programs = {hints.program.id: hints.program.name for hints in self.hints}
        return [one for one, name in programs.items() if name != UNDECLARED and one not in finished]

    # --- answering: all of it runs on the server's own event loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serving.lifespan(receive, send, _nothing, _nothing)
            return
        try:
            body = await serving.read_body(receive, limit=BODY_MAX_BYTES)
        except serving.ClientLeft:
            return
        except serving.BodyTooLarge:
            await serving.send_error(send, 413, f"the body exceeds {BODY_MAX_BYTES} bytes")
            return
        request = RecordedRequest(scope["method"], scope["path"], _headers(scope), body, time.time())
        exchange = Exchange(request, self._stopping, scope, receive, send)
        with self._changed:
            self.forgotten += len(self._requests) == self._requests.maxlen
            self._requests.append(request)
            self._changed.notify_all()
        try:
            await self._answer(exchange)
        finally:
            with self._changed:
                request.broken_off = not exchange.complete
                self._changed.notify_all()

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.is_model_call:
            await self._say(exchange)
        elif (request.method, request.path) == ("POST", EVENTS_PATH):
            await self._take_events(exchange)
        elif (request.method, request.path) == ("POST", "/v1/embeddings"):
            await self._embed(exchange)
        elif request.method == "GET" and (found := self._find(request.path)) is not None:
            await exchange.send_json(200, found)
        else:
            await exchange.refuse(404, f"the recording server has no {request.method} {request.path}")

    async def _take_events(self, exchange: Exchange) -> None:
        if self.events_status != 202:
            await exchange.refuse(self.events_status, "the test says so")
            return
        try:
            read = exchange.request.events
        except UnreadableHints as error:
            await exchange.refuse(400, f"not a batch of events: {error}")
            return
        rejected = [
            {"index": index, "reason": event.reason}
            for index, event in enumerate(read)
            if isinstance(event, Rejection)
        ]
        await exchange.send_json(202, {"accepted": len(read) - len(rejected), "rejected": rejected})

    async def _embed(self, exchange: Exchange) -> None:
        try:
            await exchange.send_json(200, embeddings(_object(exchange.request)))
        except ValueError as error:
            await exchange.refuse(400, str(error))

    def _find(self, path: str) -> dict[str, Any] | None:
        models = {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models
        }
        if path == _MODELS_PATH:
            return {"object": "list", "data": list(models.values())}
        return models.get(path.removeprefix(f"{_MODELS_PATH}/")) or self._responses.get(
            path.removeprefix(_RESPONSE_PREFIX)
        )

    async def _say(self, exchange: Exchange) -> None:
        try:
            body = _checked(exchange.request)
        except ValueError as error:
            await exchange.refuse(400, str(error))
            return
        previous = body.get("previous_response_id")
        if previous is not None and str(previous) not in self._responses:
            message = f"Previous response with id '{previous}' not found."
            await exchange.refuse(400, message, code="previous_response_not_found")
            return
        await self._carry_out(exchange, self.script.take(exchange.request), body)

    async def _carry_out(self, exchange: Exchange, answer: Answer, body: dict[str, Any]) -> None:
        if not await exchange.pause(answer.delay, answer.until) or isinstance(answer, Hangup):
            await exchange.hang_up()
        elif isinstance(answer, Failure):
            await exchange.fail(answer)
        else:
            self._replies += 1
            spoken = Spoken.of(answer, self._replies, body, int(time.time()))
            path = exchange.request.path
            if path == RESPONSES_PATH and body.get("store") is not False:
                self._remember(whole_response(spoken))
            if body.get("stream"):
                await exchange.stream(answer, _STREAMED[path](spoken))
            else:
                await exchange.reply(answer, _WHOLE[path](spoken))

    def _remember(self, response: dict[str, Any]) -> None:
        self._responses[response["id"]] = response
        if len(self._responses) > RESPONSES_MAX:
            self._responses.popitem(last=False)


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    raw: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _object(request: RecordedRequest) -> dict[str, Any]:
    try:
        body = request.json
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object")
    return body


def _checked(request: RecordedRequest) -> dict[str, Any]:
    """Returns the body of a model call that a real server would take too, as far as its form goes."""
    body = _object(request)
    if not isinstance(body.get("model"), str):
        raise ValueError("model must be a string")
    if request.path == CHAT_PATH:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise ValueError("messages must be a non-empty array")
    return body


def _step_key(hints: Hints) -> tuple[str, str]:
    return hints.program.id, hints.step.id


async def _nothing() -> None:
    pass


@contextmanager
def listening(server: RecordingServer) -> Iterator[RecordingServer]:
    """Lets a server serve on a free port of the loopback interface while the block runs."""
    with serving.in_background(server) as server.url:
        yield server


@contextmanager
def recording_server(
    *lines: Line | Told,
    models: Collection[str] = ("test-model",),
    events_status: int = 202,
    keep: int = KEEP,
) -> Iterator[RecordingServer]:
    """Serves on a free port of the loopback interface while the block runs.

        with recording_server("a plan", Line("an idea", kind="think", times=3)) as server:
            client = instrument(OpenAI(base_url=server.base_url, api_key="none"))

    At the end of the block the script must have been followed. If the block itself raises, what is wrong with
    the script is added to that exception as a note.

    Args:
        lines: of the script; any call is answered `fine` if there are none.
        models: what `/v1/models` lists.
        events_status: what lifecycle events are answered with.
        keep: how many requests are kept; older ones are forgotten, and are missing from graphs.

    Raises:
        ScriptError: (an AssertionError) at the end, if a call had no line or a line no call.
    """
    __tracebackhide__ = True
    script = Script(*lines)
    with listening(RecordingServer(script, models=models, events_status=events_status, keep=keep)) as server:
        try:
            yield server
        except BaseException as error:
            script.explain(error)
            raise
    script.verify()
