"""What the handler adds to a model call: python -m tests.bench_overhead

The same chain, with and without the handler, in turn, on the same hooked clients and server. Prints JSON.
"""

import gc
import json
import statistics
import sys
import time

from langchain_core.runnables import RunnableLambda

from llmd_agents import program
from llmd_agents.testing import Line, recording_server
from llmd_agents_langchain import LlmdAgentsHandler
from tests.recorded import model_of


def main(calls: int = 1500) -> None:
    with recording_server(Line("fine", times=None)) as server, model_of(server.base_url) as model:
        model.default_headers = None
        chain = RunnableLambda(lambda text: text) | model | RunnableLambda(lambda message: message.text)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        handler = LlmdAgentsHandler()
        gc.disable()
        for turn in range(calls):
            # In a program of its own: what it costs to begin one is no cost of a call.
            with program("bench"):
                for watched in (False, True) if turn % 2 else (True, False):
                    config = {"callbacks": [handler]} if watched else {}
                    began = time.perf_counter()
                    chain.invoke("hello", config)  # type: ignore[arg-type]
                    seconds[watched].append(time.perf_counter() - began)
    without, with_it = (statistics.median(seconds[watched][50:]) * 1e6 for watched in (False, True))
    print(
        json.dumps(
            {
                "calls": calls,
                "p50_without_us": round(without, 1),
                "p50_with_us": round(with_it, 1),
                "p50_added_us": round(with_it - without, 1),
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
