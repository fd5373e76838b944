"""What the handler adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

The same runs, within one program, without any handler, with one that does nothing, and with the adapter's,
in turn. The model is reached through the same hooked clients in all arms and answers in this process: what
differs is the handler, from a run's beginning to its end, divided by its calls. What is added is the median
of the differences of neighbours, in microseconds: by the clock, and of the CPU, which what else the machine
does disturbs less.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

import httpx2
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from pydantic import SecretStr

from llmd_agents import attach, program
from llmd_agents_langchain import LlmdAgentsHandler

CALLS = 3
NODES = 3


class Idle(BaseCallbackHandler):
    """A handler that is called, and does nothing."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        pass


class State(TypedDict, total=False):
    text: str


@tool
def look_up() -> str:
    """Looks up."""
    return "found"


def answer(request: httpx2.Request) -> httpx2.Response:
    """Answers in this process: nothing of a network is measured."""
    asked = json.loads(request.content)
    message: dict[str, Any] = {"role": "assistant", "content": "done"}
    if "tools" in asked and asked["messages"][-1]["role"] == "user":
        call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return httpx2.Response(200, json=body)


def graph_of(model: ChatOpenAI) -> Any:
    """Returns a graph of nodes one after another, each of which calls the model."""

    def node(state: State) -> State:
        return {"text": model.invoke("hello").text}

    graph = StateGraph(State)
    for number in range(NODES):
        graph.add_node(f"node{number}", node)
        graph.add_edge(f"node{number - 1}" if number else START, f"node{number}")
    return graph.compile()


def added(run: Callable[[Any], object], rounds: int, calls: int) -> dict[str, float]:
    """Returns medians of what a call takes without a handler, and of what it takes more with each."""
    arms: dict[str, Any] = {
        "without": {},
        "idle": {"callbacks": [Idle()]},
        "added": {"callbacks": [LlmdAgentsHandler()]},
    }
    clocks = {"": time.perf_counter, "cpu_": time.thread_time}
    took: dict[tuple[str, str], list[float]] = {(name, arm): [] for name in clocks for arm in arms}
    names = list(arms)
    for turn in range(rounds):
        first = turn % len(names)
        for arm in (*names[first:], *names[:first]):
            began = {name: clock() for name, clock in clocks.items()}
            run(arms[arm])
            for name, clock in clocks.items():
                took[name, arm].append((clock() - began[name]) / calls * 1e6)
    report = {}
    for name in clocks:
        without, idle, watched = (took[name, arm][rounds // 10 :] for arm in arms)
        report[f"{name}p50_without_us"] = round(statistics.median(without), 1)
        for arm, found in (("idle_", idle), ("", watched)):
            more = [one - other for one, other in zip(found, without, strict=True)]
            report[f"{name}p50_{arm}added_us"] = round(statistics.median(more), 1)
    return report


def main(rounds: int = 150) -> None:
    with attach(httpx2.Client(transport=httpx2.MockTransport(answer))) as client, program("bench"):
        model = ChatOpenAI(
            model="m", base_url="http://127.0.0.1:1/v1", api_key=SecretStr("none"), http_client=client
        )

        def several(text: str) -> str:
            return "".join(model.invoke(text).text for _ in range(CALLS))

        code = RunnableLambda(several)
        prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{text}")])
        chain = prompt | model | StrOutputParser()
        graph = graph_of(model)
        agent: Any = create_agent(model, [look_up])
        asked: Any = {"messages": [("user", "find it")]}
        gc.disable()
        report = {
            "rounds": rounds,
            # Calls that a chain's code makes.
            "call": added(lambda config: code.invoke("hello", config), rounds, CALLS),
            # One call in four runs of LangChain's.
            "prompt_model_parser": added(lambda config: chain.invoke({"text": "hello"}, config), rounds, 1),
            "graph": added(lambda config: graph.invoke({"text": ""}, config), rounds, NODES),
            # Two calls, and one of a tool.
            "agent": added(lambda config: agent.invoke(asked, config), rounds, 2),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
