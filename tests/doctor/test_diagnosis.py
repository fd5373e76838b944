"""What the doctor tells of servers of all kinds: never more than was to be seen."""

import json
from typing import Any

import pytest

from llmd_agents.doctor import Diagnosis, Unusable, Verdict, diagnose
from llmd_agents.doctor.advice import advice
from llmd_agents.doctor.diagnosis import CALLS_MAX
from tests.doctor.awkward import awkward
from tests.recording import recording_server
from tests.stack.servers import stack

HONOURED, ACCEPTED, IGNORED = Verdict.HONOURED, Verdict.ACCEPTED, Verdict.IGNORED
REFUSED, ABSENT, UNKNOWN = Verdict.REFUSED, Verdict.ABSENT, Verdict.UNKNOWN

DIALECT_HEADERS = {"headers.llm_d": ACCEPTED, "headers.dynamo": ACCEPTED}
BODIES = ["vllm", "sglang", "dynamo", "openai", "anthropic"]
MEMBERS = ["unknown_member", "priority", "cache_salt", "kv_transfer_params", "prompt_cache_key"]
CACHE = {"cache.reported": HONOURED, "cache.prefix": HONOURED, "cache.salt": HONOURED}
ROUTES = {
    "routes.stream": HONOURED,
    "routes.completions": HONOURED,
    "routes.responses": HONOURED,
    "routes.lineage": HONOURED,
}


def bodies(verdict: Verdict) -> dict[str, Verdict]:
    return {f"body.{name}": verdict for name in BODIES + MEMBERS}


def verdicts(found: Diagnosis) -> dict[str, Verdict]:
    assert len({one.key for one in found.findings}) == len(found.findings)
    return {one.key: one.verdict for one in found.findings}


def test_the_router_in_front_of_embedded_engines() -> None:
    with stack(2) as servers:
        found = diagnose(servers.router)
        program = servers.program(found.program)
    assert verdicts(found) == {
        "hints.header": HONOURED,
        "hints.events": HONOURED,
        "hints.program": HONOURED,
        "hints.malformed": HONOURED,
        "hints.oversized": HONOURED,
        **DIALECT_HEADERS,
        **bodies(ACCEPTED),
        **CACHE,
        **ROUTES,
        "engine.router": HONOURED,
        "engine.directives": ABSENT,
        "engine.residency": ABSENT,
    }
    assert found.base_url == f"{servers.router}/v1"
    assert (program["name"], program["status"]) == ("llmd-agents doctor", "ok")
    assert found.calls == 14
    assert advice(found)[0] == "Hints are read here: instrument(client) is all it takes."


def test_an_embedded_engine_alone() -> None:
    with stack(1) as servers:
        found = diagnose(f"{servers.engines[0]}/v1/", model="any")
    assert verdicts(found) == {
        "hints.header": ACCEPTED,
        "hints.events": ABSENT,
        "hints.program": ABSENT,
        "hints.malformed": ACCEPTED,
        "hints.oversized": ACCEPTED,
        **DIALECT_HEADERS,
        **bodies(ACCEPTED),
        **CACHE,
        **ROUTES,
        "engine.router": ABSENT,
        "engine.directives": HONOURED,
        "engine.residency": HONOURED,
    }
    assert found.facts[1:] == ["x-llmd-engine: embedded; runs no model"]
    assert advice(found)[0].endswith(f"llmd-agents router --engine {servers.engines[0]}")


def test_a_server_that_knows_nothing() -> None:
    with recording_server() as (recorded, url):
        with pytest.raises(Unusable, match="lists no model: name one with --model") as refused:
            diagnose(url)
        assert refused.value.usage
        found = diagnose(url, model="m", api_key="secret")
    assert verdicts(found) == {
        "hints.header": ACCEPTED,
        "hints.events": ACCEPTED,  # it says 202 to anything
        "hints.program": ABSENT,
        "hints.malformed": ACCEPTED,
        "hints.oversized": ACCEPTED,
        **DIALECT_HEADERS,
        **bodies(ACCEPTED),
        "cache.reported": ABSENT,
        "cache.prefix": UNKNOWN,
        "routes.stream": IGNORED,
        "routes.completions": ABSENT,
        "routes.responses": ABSENT,
        "engine.router": ABSENT,
        "engine.directives": ABSENT,
        "engine.residency": ABSENT,
    }
    assert {request.headers["authorization"] for request in recorded.requests[1:]} == {"Bearer secret"}
    assert found.calls == sum(
        request.path.removeprefix("/v1") in ("/chat/completions", "/completions", "/responses")
        for request in recorded.requests
    )
    assert all(
        max(request.json.get("max_tokens", 0), request.json.get("max_output_tokens", 0)) <= 16
        for request in recorded.calls
    )
    assert "Hints do no harm here" in advice(found)[0]


def test_a_strict_server() -> None:
    with awkward(strict=True) as (server, url):
        found = diagnose(url)
    assert found.verdict("body.unknown_member") is REFUSED
    assert found.keys("body.", REFUSED) == [
        "vllm", "sglang", "dynamo", "unknown_member", "priority", "cache_salt", "kv_transfer_params",
    ]  # fmt: skip
    assert found.keys("body.", ACCEPTED) == ["openai", "anthropic", "prompt_cache_key"]
    known = next(one for one in found.findings if one.key == "body.openai")
    assert known.detail == "prompt_cache_key: known to the server"
    refused = next(one for one in found.findings if one.key == "body.vllm")
    assert refused.detail == "400 Extra inputs are not permitted: vllm_xargs"
    expected = "Refused, so do not switch on: vllm, sglang, dynamo, priority, cache_salt, kv_transfer_params."
    assert expected in advice(found)
    assert found.calls == server.paths.count("POST /v1/chat/completions") + 2 <= CALLS_MAX
    assert found.verdict("cache.salt") is UNKNOWN


def test_a_proxy_that_takes_no_long_headers() -> None:
    with awkward(header_max=1500) as (_, url):
        found = diagnose(url)
    assert found.verdict("hints.header") is ACCEPTED
    assert found.verdict("hints.oversized") is REFUSED
    assert "A bad hint header makes calls fail here" in " ".join(advice(found))


def test_a_server_that_breaks_off_calls_with_hints() -> None:
    with awkward(breaks_off_on_hints=True) as (_, url):
        found = diagnose(url)
    assert {found.verdict(f"hints.{key}") for key in ("header", "malformed", "oversized")} == {REFUSED}
    assert advice(found)[0] == "Calls with hints fail here: do not instrument clients of this server."
    assert found.verdict("headers.llm_d") is ACCEPTED


def test_a_model_that_thinks_first() -> None:
    with awkward(needs_max_completion_tokens=True) as (_, url):
        found = diagnose(url)
    assert found.verdict("body.openai") is ACCEPTED
    assert found.verdict("routes.stream") is IGNORED


@pytest.mark.parametrize(
    ("status", "verdict"), [(404, ABSENT), (405, ABSENT), (429, UNKNOWN), (403, REFUSED)]
)
def test_what_statuses_say(status: int, verdict: Verdict) -> None:
    with awkward(status_of={"/v1/agent/events": status}) as (_, url):
        assert diagnose(url).verdict("hints.events") is verdict


@pytest.mark.parametrize(
    ("usage", "reported", "prefix"),
    [
        ({"prompt_tokens": 3000, "prompt_tokens_details": {"cached_tokens": 0}}, HONOURED, IGNORED),
        ({"prompt_tokens": 3000, "prompt_tokens_details": {"cached_tokens": 2048}}, HONOURED, HONOURED),
        ({"input_tokens": 3000, "input_tokens_details": {"cached_tokens": 7}}, HONOURED, HONOURED),
        ({"prompt_tokens": 3000, "prompt_tokens_details": None}, ABSENT, UNKNOWN),
        ({"prompt_tokens": 3000, "prompt_tokens_details": {"cached_tokens": True}}, ABSENT, UNKNOWN),
        ({"prompt_tokens": 3000, "prompt_tokens_details": {"cached_tokens": -1}}, ABSENT, UNKNOWN),
        ({"prompt_tokens": "many", "prompt_tokens_details": {"cached_tokens": 3}}, ABSENT, UNKNOWN),
        ([], ABSENT, UNKNOWN),
        (None, ABSENT, UNKNOWN),
    ],
)
def test_the_prompt_cache_is_what_the_server_says(usage: Any, reported: Verdict, prefix: Verdict) -> None:
    with awkward(usage=usage) as (_, url):
        found = diagnose(url)
    assert (found.verdict("cache.reported"), found.verdict("cache.prefix")) == (reported, prefix)
    # What is cached under a salt as well is not kept apart.
    assert found.verdict("cache.salt") is (IGNORED if prefix is HONOURED else UNKNOWN)


@pytest.mark.parametrize("ack", ["v=2", "nonsense=", 'v=1, rejected=("program";reason="no")', "v=1"])
def test_acks_that_say_something_else(ack: str) -> None:
    with awkward(ack=ack) as (_, url):
        assert diagnose(url).verdict("hints.header") in (ACCEPTED, IGNORED)


def test_a_server_that_says_ok_to_everything() -> None:
    with awkward(everything=b"<html>welcome</html>") as (_, url), pytest.raises(Unusable) as refused:
        diagnose(url, model="m")
    assert "answers a chat completion with something else: 200 <html>welcome</html>" in str(refused.value)


def test_what_a_hostile_server_says_is_one_short_line() -> None:
    said = "\x1b[31mred\x07\n[bold]" + "x" * 100_000
    with awkward(status_of={"/v1/agent/events": 400}, error=lambda: said) as (_, url):
        found = diagnose(url)
    (events,) = (one for one in found.findings if one.key == "hints.events")
    assert events.detail.startswith("400 [31mred [bold]xxx")
    assert len(events.detail) == 160
    with awkward(models={"data": [{"id": "m\x1b[0m" + "y" * 10_000}, 3, {"id": 4}, None]}) as (_, url):
        found = diagnose(url)
    assert all(one.isprintable() and len(one) < 250 for one in found.facts)
    with awkward(endless=True) as (_, url), pytest.raises(Unusable, match="something else"):
        diagnose(url)
    with (
        awkward(models=json.loads("[" * 900 + "]" * 900)) as (_, url),
        pytest.raises(Unusable, match="no model"),
    ):
        diagnose(url)


def test_servers_that_do_not_answer() -> None:
    with pytest.raises(Unusable, match=r"127\.0\.0\.1:9/v1 does not answer") as dead:
        diagnose("http://127.0.0.1:9/v1")
    assert not dead.value.usage
    with awkward(sleeps="/models") as (_, url), pytest.raises(Unusable, match=r"no answer within 0\.2 s"):
        diagnose(url, timeout=0.2)
    with awkward(sleeps="/agent/events") as (_, url):
        assert diagnose(url, timeout=0.5).verdict("hints.events") is UNKNOWN


def test_a_key_that_is_refused() -> None:
    with awkward(key="right") as (_, url):
        with pytest.raises(Unusable, match="refuses the key: 401 who are you") as refused:
            diagnose(url, api_key="wrong")
        assert not refused.value.usage
        assert diagnose(url, api_key="right").verdict("hints.header") is ACCEPTED


def test_a_plain_call_that_is_refused() -> None:
    with (
        awkward(status_of={"/v1/chat/completions": 400}, error=lambda: "no such model") as (_, url),
        pytest.raises(Unusable, match="refuses a plain call: 400 no such model"),
    ):
        diagnose(url)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://[::1/v1", "http://x:99999"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Unusable, match="--base-url: must be like http://host:8000/v1") as refused:
        diagnose(url)
    assert refused.value.usage


def test_credentials_in_a_url_are_not_shown() -> None:
    with awkward() as (_, url):
        found = diagnose(url.replace("http://", "http://me:secret@"))
    assert found.base_url == url
    assert "secret" not in json.dumps(found.as_json(advice(found)))
