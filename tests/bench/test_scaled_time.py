"""Scaled time: the loop's clock outruns the wall's, and sockets work as ever."""

import asyncio
import time

from llmd_agents.bench.scaled_time import scaled_time


def test_an_hour_passes_in_no_time_and_sockets_work() -> None:
    async def main() -> float:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3600)
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
        return loop.time() - began

    with asyncio.Runner(loop_factory=scaled_time(36_000)) as runner:
        began = time.monotonic()
        assert runner.run(main()) >= 3600
        assert time.monotonic() - began >= 0.1
