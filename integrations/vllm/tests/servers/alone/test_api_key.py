"""Where vLLM asks for a key, our routes ask for it too."""

import httpx
import pytest

from harness.engines import Engine
from harness.hinted import body_of, tip
from llmd_agents.hints import KV_PATH, RESIDENCY_PATH, Release, encode_directives
from tests.servers.fleet import KEY, Fleet, context

MESSAGES = context("key", 40)
CHAT = "/v1/chat/completions"


def status(engine: Engine, method: str, path: str, authorization: str | None) -> int:
    headers = {} if authorization is None else {"authorization": authorization}
    release = encode_directives("m", [("a", Release(digest=tip(MESSAGES)))])
    content = {KV_PATH: release}.get(path) if method == "POST" else None
    json = {**body_of(MESSAGES), "max_tokens": 2} if path == CHAT else None
    with httpx.stream(
        method, engine.url + path, headers=headers, content=content, json=json, timeout=60
    ) as response:
        return response.status_code


@pytest.mark.parametrize(
    ("method", "path"), [("GET", KV_PATH), ("POST", KV_PATH), ("GET", RESIDENCY_PATH), ("POST", CHAT)]
)
def test_every_route_needs_it(engines: Fleet, method: str, path: str) -> None:
    *_, engine = engines.engines
    for wrong in (None, "Bearer other", KEY, f"Basic {KEY}", "Bearer"):
        assert status(engine, method, path, wrong) == 401
    assert status(engine, method, path, f"Bearer {KEY}") == 200
    assert status(engines.engines[0], method, path, None) == 200
