"""What the handler adds to a model call: python -m tests.bench_overhead

The same chains, with and without the handler, in turn, on the same hooked clients and server. Prints JSON:
medians in microseconds, of a call that a chain's code makes, and of a chain of prompt, model and parser,
which is one call in four runs of LangChain.
"""

import gc
import json
import statistics
import sys
import time
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

from llmd_agents import program
from llmd_agents.testing import Line, recording_server
from llmd_agents_langchain import LlmdAgentsHandler
from tests.recorded import model_of

CALLS = 10


def medians(chain: Runnable[Any, Any], given: Any, rounds: int, calls: int) -> dict[str, float]:
    """Returns medians of what a call takes without, and more with: by the clock, and of the CPU."""
    configs: dict[bool, Any] = {False: {}, True: {"callbacks": [LlmdAgentsHandler()]}}
    clocks = {"": time.perf_counter, "cpu_": time.thread_time}
    took: dict[tuple[str, bool], list[float]] = {(name, how): [] for name in clocks for how in configs}
    for turn in range(rounds):
        # Within one program: to begin one costs the same without the adapter.
        with program("bench"):
            for watched in (False, True) if turn % 2 else (True, False):
                began = {name: clock() for name, clock in clocks.items()}
                chain.invoke(given, configs[watched])
                for name, clock in clocks.items():
                    took[name, watched].append((clock() - began[name]) / calls * 1e6)
    report = {}
    for name in clocks:
        without, with_it = (statistics.median(took[name, how][rounds // 10 :]) for how in configs)
        report[f"{name}p50_without_us"] = round(without, 1)
        report[f"{name}p50_added_us"] = round(with_it - without, 1)
    return report


def main(rounds: int = 300) -> None:
    with recording_server(Line("fine", times=None)) as server, model_of(server.base_url) as model:
        model = model.model_copy(update={"default_headers": None})

        def several(text: str) -> str:
            return "".join(model.invoke(text).text for _ in range(CALLS))

        prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{text}")])
        gc.disable()
        report = {
            "rounds": rounds,
            "call": medians(RunnableLambda(several), "hello", max(rounds // CALLS, 20), CALLS),
            "prompt_model_parser": medians(prompt | model | StrOutputParser(), {"text": "hello"}, rounds, 1),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
