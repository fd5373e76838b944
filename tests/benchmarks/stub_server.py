"""The cheapest server that an OpenAI client accepts, in a process of its own; it looks at nothing it gets."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIFETIME_S = 600

_REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"},
    ],
    "usage": {
        "prompt_tokens": 1000,
        "completion_tokens": 2,
        "total_tokens": 1002,
        "prompt_tokens_details": {"cached_tokens": 900},
    },
}
_BODY = json.dumps(_REPLY).encode()
_COMPLETION = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-llmd-ack: v=1, "
    b'accepted=("program" "step" "segments")\r\ncontent-length: %d\r\n\r\n%s' % (len(_BODY), _BODY)
)
_ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._waiting = bytearray()

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._waiting[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._waiting) < end + 4 + length:
                return
            del self._waiting[: end + 4 + length]
            self._transport.write(_ACCEPTED if b"/agent/events" in head[:64] else _COMPLETION)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(LIFETIME_S)


@contextmanager
def stub_server() -> Iterator[str]:
    """Yields the base URL of a server that ends with the block, or after ten minutes."""
    command = [sys.executable, "-m", "tests.benchmarks.stub_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(_serve())
