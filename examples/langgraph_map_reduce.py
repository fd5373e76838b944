"""LangGraph map-reduce: a plan, a summary of each document side by side, a report; nothing of it is marked.

plan → 4 summaries (sent) → report: 6 steps, one fork. `install` is the one line that tells servers so.

pip install 'llmd-agents[langchain]' langgraph langchain-openai
llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python examples/langgraph_map_reduce.py

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import operator
import os
import sys
from typing import Annotated, TypedDict

import llmd_agents_langchain
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

llmd_agents_langchain.install()

DOCUMENTS = ["tide tables", "sea walls", "storm records", "harbour dues"]


class State(TypedDict, total=False):
    plan: str
    document: str
    summaries: Annotated[list[str], operator.add]
    report: str


async def main(base_url: str = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")) -> None:
    os.environ.setdefault("OPENAI_API_KEY", "none")
    model = ChatOpenAI(
        model=os.environ.get("MODEL", "any"), base_url=base_url, **llmd_agents_langchain.hooked()
    )

    async def ask(*texts: str) -> str:
        return (await model.ainvoke([("user", text) for text in texts])).text

    async def plan(state: State) -> State:
        return {"plan": await ask("Plan a report on a coast.")}

    def each_document(state: State) -> list[Send]:
        return [Send("summarize", {"plan": state["plan"], "document": one}) for one in DOCUMENTS]

    async def summarize(state: State) -> State:
        return {"summaries": [await ask("Plan a report.", state["plan"], f"Summarize: {state['document']}")]}

    async def write(state: State) -> State:
        return {"report": await ask("Write the report.", *state["summaries"])}

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("summarize", summarize)
    graph.add_node("write", write)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", each_document, ["summarize"])
    graph.add_edge("summarize", "write")
    graph.add_edge("write", END)

    result = await graph.compile(name="coast-report").ainvoke({})
    print(f"{len(result['summaries'])} summaries, report: {result['report'][:40]}…")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
