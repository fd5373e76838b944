"""The server over real sockets. Modelled time runs fast enough here that nothing waits for it."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from llmd_agents import serving
from llmd_agents.engine import (
    EngineServer,
    Finished,
    Queued,
    Record,
    ReplyText,
    render,
)
from llmd_agents.hints import (
    HINTS_HEADER,
    RESIDENCY_PATH,
    ForkPosition,
    Hints,
    Program,
    Step,
    chain,
    encode_hints,
)
from tests.engine.served import TINY, serve

SLOW = dataclasses.replace(TINY, step_overhead_s=60.0)
FINGERPRINT = "llmd-agents-embedded-engine"
USER = {"role": "user", "content": "Which blocks does this prompt fill? " * 8}


@pytest.fixture(scope="module")
def shared() -> Iterator[httpx.Client]:
    with serve() as client:
        yield client


def body(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages) or [USER], **members}


def post(client: httpx.Client, value: dict[str, Any]) -> httpx.Response:
    return client.post("/v1/chat/completions", json=value)


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_which_requests_are_of_branches_is_read_from_their_hints() -> None:
    records: list[Record] = []
    step = Step(id="s1", branch="f1.0", fork=ForkPosition(id="f1", index=0, width=2))
    of_branch = Hints(program=Program(id="p", name="p"), step=step)
    plain = Hints(program=Program(id="p", name="p"), step=Step(id="s2"))
    with serve(listener=records.append) as client:
        for value in (encode_hints(of_branch), encode_hints(plain), "no hints at all", None):
            headers = {} if value is None else {HINTS_HEADER: value}
            client.post("/v1/chat/completions", json=body(), headers=headers).raise_for_status()
    queued = [record.request.of_branch for record in records if isinstance(record, Queued)]
    assert queued == [True, False, False, False]


def test_answer_counts_tokens_by_the_stated_rule_and_says_that_no_model_ran() -> None:
    with serve() as client:
        first = post(client, body())
        again = post(client, body()).json()

    answer = first.json()
    prompt = render(body())
    reply = ReplyText.to(prompt.tokens)
    text = reply.tokens(reply.natural_length).decode()
    assert first.headers["x-llmd-engine"] == "embedded; runs no model"
    assert answer["system_fingerprint"] == FINGERPRINT
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": text}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": reply.natural_length,
        "total_tokens": len(prompt) + reply.natural_length,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert again["choices"] == answer["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (len(prompt) - 1) // 16 * 16
    assert answer["id"] != again["id"]


def test_modelled_times_are_those_of_the_cost_model() -> None:
    with serve() as client:
        llmd = post(client, body(max_tokens=2)).json()["llmd"]

    tokens = len(render(body()))
    first = TINY.step_overhead_s + TINY.prefill_s(0, tokens)
    second = TINY.step_overhead_s + TINY.decode_s(tokens + 1)
    assert llmd["modelled"] is True
    assert llmd["queue_s"] == 0.0
    assert llmd["ttft_s"] == pytest.approx(first)
    assert llmd["e2e_s"] == pytest.approx(first + second)


def test_next_turn_finds_prompt_and_reply_cached(shared: httpx.Client) -> None:
    opening = {"role": "user", "content": "A conversation of its own. " * 10}
    first = post(shared, body(opening)).json()
    turn = body(opening, first["choices"][0]["message"], {"role": "user", "content": "Go on."})

    usage = post(shared, turn).json()["usage"]

    computed = first["usage"]["total_tokens"] - 1
    assert usage["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16


def test_salt_and_model_separate_caches(shared: httpx.Client) -> None:
    salted = body(max_tokens=1, cache_salt="a")

    def cached(value: dict[str, Any]) -> int:
        return int(post(shared, value).json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [cached(salted), cached({**salted, "cache_salt": "b"}), cached({**salted, "model": "n"})] == [
        0,
        0,
        0,
    ]
    assert cached(salted) > 0


@pytest.mark.parametrize(
    ("members", "length", "reason"),
    [
        ({"max_tokens": 3}, 3, "length"),
        ({"max_completion_tokens": 4, "max_tokens": 3}, 4, "length"),
        ({"max_tokens": 300}, None, "stop"),
        ({"max_tokens": 300, "ignore_eos": True}, 300, "length"),
        ({}, None, "stop"),
    ],
)
def test_length_of_the_reply(
    shared: httpx.Client, members: dict[str, Any], length: int | None, reason: str
) -> None:
    answer = post(shared, body(**members)).json()

    natural = ReplyText.to(render(body()).tokens).natural_length
    assert answer["usage"]["completion_tokens"] == (length or natural)
    assert answer["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream_carries_the_same_answer(shared: httpx.Client, include_usage: bool) -> None:
    whole = post(shared, body()).json()
    streamed = post(shared, body(stream=True, stream_options={"include_usage": include_usage}))

    chunks = events(streamed)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.headers["x-llmd-engine"] == "embedded; runs no model"
    assert {chunk["system_fingerprint"] for chunk in chunks} == {FINGERPRINT}
    last = chunks.pop() if include_usage else chunks[-1]
    assert set(chunks[-1]["llmd"]) == {"modelled", "queue_s", "ttft_s", "e2e_s"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "stop"
    if include_usage:
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert [chunk.get("usage", "absent") for chunk in chunks] == [
        None if include_usage else "absent" for _ in chunks
    ]


def test_official_client_reads_both(shared: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{shared.base_url}/v1", api_key="none") as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = client.chat.completions.create(model="m", messages=messages)
        stream = client.chat.completions.create(model="m", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 5
    assert whole.choices[0].message.content == text
    assert whole.system_fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    ("members", "status", "param", "message"),
    [
        ({"messages": None}, 400, "messages", "messages must be a non-empty array"),
        ({"messages": []}, 400, "messages", "messages must be a non-empty array"),
        ({"messages": ["hi"]}, 400, "messages[0]", "must be an object"),
        ({"messages": [USER, {"content": "x"}]}, 400, "messages[1].role", "must be a string"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content", "must be a string"),
        ({"tools": "none"}, 400, "tools", "tools is not an array"),
        ({"n": 2}, 400, "n", "n must be 1"),
        ({"max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"max_tokens": True}, 400, "max_tokens", "at least 1"),
        ({"stream": "yes"}, 400, "stream", "must be a boolean"),
        ({"ignore_eos": 1}, 400, "ignore_eos", "must be a boolean"),
        ({"cache_salt": ""}, 400, "cache_salt", "non-empty string"),
        ({"model": 7}, 400, "model", "must be a string"),
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            400,
            "continue_final_message",
            "Cannot set both",
        ),
    ],
)
def test_bad_requests_name_what_is_wrong(
    shared: httpx.Client, members: dict[str, Any], status: int, param: str, message: str
) -> None:
    response = post(shared, {**body(), **members})

    assert response.status_code == status
    assert response.headers["x-llmd-engine"] == "embedded; runs no model"
    answer = response.json()
    assert answer["system_fingerprint"] == FINGERPRINT
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert message in answer["error"]["message"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b'{"messages": [{"role": "user", "content": ' + b"[" * 100_000, "the body is not JSON"),
        (
            b'{"messages": [{"role": "user", "content": ' + b"[" * 980 + b"]" * 980 + b"}]}",
            "recursion",
        ),
    ],
)
def test_bodies_that_are_no_json_objects_are_refused(shared: httpx.Client, data: bytes, message: str) -> None:
    response = shared.post("/v1/chat/completions", content=data)

    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_lone_surrogates_are_served(shared: httpx.Client) -> None:
    data = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'

    assert shared.post("/v1/chat/completions", content=data).json()["usage"]["prompt_tokens"] == 4


def test_context_is_limited_by_the_model_and_by_the_cache() -> None:
    with serve(dataclasses.replace(TINY, max_model_len=200)) as client:
        error = post(client, body(max_tokens=150)).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "context length is 200 tokens" in error["message"]
        assert post(client, body(ignore_eos=True)).json()["usage"]["total_tokens"] == 200
    with serve(dataclasses.replace(TINY, num_blocks=5)) as client:
        error = post(client, body()).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "KV cache is 64 tokens" in error["message"]


def test_only_served_models_are_known() -> None:
    with serve(model_names=["a", "b"]) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["a", "b"]
        assert post(client, body(model="b", max_tokens=1)).json()["model"] == "b"
        assert post(client, {**body(max_tokens=1), "model": None}).json()["model"] == "a"
        unknown = post(client, body(model="c"))
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


def test_routes_and_methods(shared: httpx.Client) -> None:
    assert shared.get("/health").json() == {"status": "ok", "system_fingerprint": FINGERPRINT}
    assert shared.get("/v1/nothing").status_code == 404
    wrong = shared.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert shared.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_oversized_body_is_refused(shared: httpx.Client) -> None:
    response = shared.post("/v1/chat/completions", content=bytes((64 << 20) + 1))

    assert response.status_code == 413


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    wanted = {"model_name": "tiny", **labels}
    shown = ",".join(f'{key}="{value}"' for key, value in sorted(wanted.items()))
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"{name}{{{shown}}} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name}{{{shown}}}")


def test_metrics_have_vllms_names() -> None:
    with serve() as client:
        answers = [post(client, body(max_tokens=5)).json() for _ in range(2)]
        prompt_tokens = answers[0]["usage"]["prompt_tokens"]
        cached = answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert metric(client, "vllm:prompt_tokens_total") == 2 * prompt_tokens
        assert metric(client, "vllm:generation_tokens_total") == 10
        assert metric(client, "vllm:prefix_cache_queries_total") == 2 * prompt_tokens
        assert metric(client, "vllm:prefix_cache_hits_total") == cached > 0
        assert metric(client, "vllm:prompt_tokens_cached_by_source_total", source="device") == cached
        assert metric(client, "vllm:request_success_total", finished_reason="length") == 2
        assert metric(client, "vllm:num_preemptions_total") == 0
        for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert metric(client, f"vllm:{gauge}") == 0
        for name in (
            "time_to_first_token_seconds",
            "e2e_request_latency_seconds",
            "request_queue_time_seconds",
            "time_per_output_token_seconds",
        ):
            assert metric(client, f"vllm:{name}_count") == 2
        total = sum(answer["llmd"]["ttft_s"] for answer in answers)
        assert metric(client, "vllm:time_to_first_token_seconds_sum") == pytest.approx(total)


def wait_for_metric(client: httpx.Client, name: str, value: float, **labels: str) -> None:
    while metric(client, name, **labels) != value:
        pass  # bounded by the test's own timeout


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_ends_its_request(stream: bool) -> None:
    with serve(SLOW, time_scale=1.0) as client:
        with httpx.Client(base_url=client.base_url) as leaving:
            request = leaving.build_request(
                "POST", "/v1/chat/completions", json=body(stream=stream), timeout=0.2
            )
            with pytest.raises(httpx.ReadTimeout):
                leaving.send(request, stream=stream).read()
        wait_for_metric(client, "vllm:request_success_total", 1, finished_reason="abort")
        assert metric(client, "vllm:num_requests_running") == 0
        assert client.post("/reset_prefix_cache").status_code == 200


def test_reset_forgets_the_cache_but_not_under_running_requests() -> None:
    # A step takes 50 ms of wall time.
    with serve(SLOW, time_scale=1200.0) as client:
        before = post(client, body(max_tokens=1)).json()["usage"]
        long = body(stream=True, ignore_eos=True, max_tokens=2000)
        with client.stream("POST", "/v1/chat/completions", json=long):
            wait_for_metric(client, "vllm:num_requests_running", 1)
            refused = client.post("/reset_prefix_cache")
            assert refused.status_code == 409
            assert "running requests hold blocks" in refused.json()["error"]["message"]
        wait_for_metric(client, "vllm:num_requests_running", 0)
        assert client.post("/reset_prefix_cache").json()["status"] == "ok"
        assert post(client, body(max_tokens=1)).json()["usage"] == before


def test_listener_hears_every_request() -> None:
    records: list[Record] = []
    with serve(listener=records.append, epoch="e") as client:
        answer = post(client, body(max_tokens=2)).json()

    assert answer["id"] == "chatcmpl-e-0"
    first, last = records[0], records[-1]
    assert isinstance(first, Queued)
    assert first.request.prompt == render(body()).tokens
    assert [digest for digest, _ in first.request.boundaries] == [link.digest for link in chain(body())]
    assert last == Finished("chatcmpl-e-0")


class Connection:
    """One exchange with the application, without a socket; the client stays until the end."""

    def __init__(
        self, app: EngineServer, method: str, path: str, value: dict[str, Any] | None = None
    ) -> None:
        self.messages: list[serving.Message] = []
        self.started = asyncio.Event()
        self._requests = [{"type": "http.request", "body": json.dumps(value).encode()}]
        scope = {"type": "http", "method": method, "path": path}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    async def _receive(self) -> serving.Message:
        if self._requests:
            return self._requests.pop()
        return await asyncio.Future()

    async def _send(self, message: serving.Message) -> None:
        self.messages.append(message)
        self.started.set()


def test_close_ends_every_exchange() -> None:
    async def story() -> None:
        app = EngineServer(SLOW)
        inbox: asyncio.Queue[serving.Message] = asyncio.Queue()
        outbox: asyncio.Queue[serving.Message] = asyncio.Queue()
        lifespan = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        assert await outbox.get() == {"type": "lifespan.startup.complete"}
        streamed = Connection(app, "POST", "/v1/chat/completions", body(stream=True))
        whole = Connection(app, "POST", "/v1/chat/completions", body())
        feed = Connection(app, "GET", RESIDENCY_PATH)
        await streamed.started.wait()
        await feed.started.wait()

        app.close()
        await asyncio.gather(streamed.task, whole.task, feed.task)
        await inbox.put({"type": "lifespan.shutdown"})
        await lifespan

        assert whole.messages[0]["status"] == 503
        assert json.loads(whole.body)["system_fingerprint"] == FINGERPRINT
        assert b"the engine is stopping" in streamed.body
        assert b"[DONE]" not in streamed.body
        for connection in (streamed, whole, feed):
            assert not connection.messages[-1].get("more_body", False)
        late = Connection(app, "POST", "/v1/chat/completions", body())
        await late.task
        assert late.messages[0]["status"] == 503
        ill = Connection(app, "GET", "/health")
        await ill.task
        assert ill.messages[0]["status"] == 503

    asyncio.run(story())


def test_engine_that_fails_answers_instead_of_hanging(caplog: pytest.LogCaptureFixture) -> None:
    def broken(record: Record) -> None:
        if not isinstance(record, Queued):
            raise RuntimeError("listener broke")

    with serve(listener=broken) as client:
        answer = post(client, body())
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "server_error"
        assert client.get("/health").status_code == 503
    assert "the engine has failed" in caplog.text


def test_requests_of_a_fork_run_together() -> None:
    async def fan_out(url: str) -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            shared = {"role": "system", "content": "Shared by all children. " * 20}
            await client.post("/v1/chat/completions", json=body(shared, max_tokens=1))
            children = [
                body(shared, {"role": "user", "content": f"child {index}"}, max_tokens=20)
                for index in range(24)
            ]
            sent = [client.post("/v1/chat/completions", json=child) for child in children]
            return [response.json() for response in await asyncio.gather(*sent)]

    with serve(time_scale=2000.0) as client:
        answers = asyncio.run(fan_out(str(client.base_url)))

    assert {answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers} == {112}
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {20}
