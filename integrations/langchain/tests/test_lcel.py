"""Chains: what LCEL runs side by side, and what waits for what."""

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_openai import ChatOpenAI

from llmd_agents.testing import RecordingServer
from tests.recorded import by_text, edges, recorded, say, watched

WAYS = ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"]


def run(chain: Runnable[Any, Any], given: Any, way: str) -> None:
    async def astream() -> None:
        async for _ in chain.astream(given, watched()):
            pass

    match way:
        case "invoke":
            chain.invoke(given, watched())
        case "ainvoke":
            asyncio.run(chain.ainvoke(given, watched()))
        case "stream":
            assert list(chain.stream(given, watched()))
        case "astream":
            asyncio.run(astream())
        case "batch":
            chain.batch([given], watched())
        case "abatch":
            asyncio.run(chain.abatch([given], watched()))


@pytest.mark.parametrize("way", WAYS)
def test_a_sequence(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    run(say(model, "one") | say(model, "two") | say(model, "three"), "", way)
    recorded(server).assert_shape("one > two > three")
    assert server.graph().outcome == "ok"


@pytest.mark.parametrize("way", WAYS)
def test_prompts_and_parsers(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    def ask(text: str) -> Runnable[Any, Any]:
        return ChatPromptTemplate.from_template(text) | model | StrOutputParser()

    class Mended(BaseOutputParser[str]):
        """A parser that asks a model for help."""

        def parse(self, text: str) -> str:
            return model.invoke(f"mend {text}").text

    chain = (
        ask("one {x}")
        | (lambda text: {"x": text})
        | RunnableParallel(a=ask("a {x}"), b=ask("b {x}"))
        | (lambda texts: {"x": "-".join(texts[key] for key in sorted(texts))})
        | ChatPromptTemplate.from_template("{x}")
        | model
        | Mended()
    )
    run(chain, {"x": "0"}, way)
    recorded(server).assert_shape("one 0 > fork(a one 0 | b one 0) > a one 0-b one 0 > mend a one 0-b one 0")


@pytest.mark.parametrize("way", WAYS)
def test_nested_parallel(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    inner = RunnableParallel(left=say(model, "c"), right=say(model, "d"))
    chain = (
        say(model, "plan")
        | RunnableParallel(short=say(model, "a"), long=say(model, "b") | inner, none=RunnablePassthrough())
        | say(model, "end")
    )
    run(chain, "", way)
    graph = recorded(server)
    graph.assert_shape("plan > fork(a | b > fork(c | d) | -) > end")
    assert edges(graph) == {
        ("plan", "a"),
        ("plan", "b"),
        ("b", "c"),
        ("b", "d"),
        ("a", "end"),
        ("c", "end"),
        ("d", "end"),
    }
    graph.assert_forked(3)
    assert graph.assert_forked(2).joined


def test_parallel_at_the_start(server: RecordingServer, model: ChatOpenAI) -> None:
    (RunnableParallel(a=say(model, "a"), b=say(model, "b")) | say(model, "end")).invoke("", watched())
    recorded(server).assert_shape("fork(a | b) > end")


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_map(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    chain = say(model, "split") | (lambda _: ["x", "y", "z"]) | say(model).map() | say(model, "end")
    run(chain, "", way)
    recorded(server).assert_shape("split > fork(x | y | z) > end")


def test_one_at_a_time_is_still_side_by_side(server: RecordingServer, model: ChatOpenAI) -> None:
    chain = say(model, "split") | (lambda _: ["x", "y"]) | say(model).map() | say(model, "end")
    chain.invoke("", watched(max_concurrency=1))
    recorded(server).assert_shape("split > fork(x | y) > end")


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_a_batch_is_several_programs(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    chain = say(model) | say(model, "end")
    if way == "batch":
        chain.batch(["x", "y", "z"], watched())
    else:
        asyncio.run(chain.abatch(["x", "y", "z"], watched()))
    assert sorted(by_text(server, graph).shape() for graph in server.graphs()) == [
        "x > end",
        "y > end",
        "z > end",
    ]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_batch_within_a_chain(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    each = say(model) | say(model)

    def split(_: Any) -> str:
        each.batch(["x", "y"])
        return "end"

    async def asplit(_: Any) -> str:
        await each.abatch(["x", "y"])
        return "end"

    run(say(model, "plan") | RunnableLambda(split, asplit) | say(model), "", way)
    graph = recorded(server)
    graph.assert_edges({"plan": ["x", "y"], "x": ["x", "end"], "y": ["y", "end"]})


def test_calls_that_code_makes(server: RecordingServer, model: ChatOpenAI) -> None:
    async def work(_: Any) -> str:
        await model.ainvoke("one")
        await asyncio.gather(model.ainvoke("two"), say(model, "three").ainvoke(""))
        await model.ainvoke("four")
        return ""

    asyncio.run(RunnableLambda(work).ainvoke("", watched()))
    recorded(server).assert_edges({"one": ["two", "three"], "two": ["four"], "three": ["four"]})


def test_a_loop(server: RecordingServer, model: ChatOpenAI) -> None:
    def work(_: Any) -> str:
        for turn in range(3):
            say(model, f"turn {turn}").invoke("")
        return "end"

    (RunnableLambda(work) | say(model)).invoke("", watched())
    recorded(server).assert_shape("turn 0 > turn 1 > turn 2 > end")


class Shelf(BaseRetriever):
    """Finds what it is asked for."""

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [Document(query)]


@pytest.mark.parametrize("way", WAYS)
def test_retrieval(server: RecordingServer, model: ChatOpenAI, way: str) -> None:
    found = Shelf() | RunnableLambda(lambda found: found[0].page_content)
    chain = (
        say(model, "rephrase") | {"context": found, "question": RunnablePassthrough()} | say(model, "answer")
    )
    run(chain, "", way)
    graph = recorded(server)
    graph.assert_shape("rephrase > answer")
    graph.assert_tools(["Shelf"])
    assert not graph.forks


def test_a_fallback(server: RecordingServer, model: ChatOpenAI) -> None:
    chain = (
        say(model, "plan") | say(model, "!first").with_fallbacks([say(model, "second")]) | say(model, "end")
    )
    chain.invoke("", watched())
    assert edges(recorded(server)) == {("plan", "!first"), ("plan", "second"), ("second", "end")}


def test_streams_that_take_turns(server: RecordingServer, model: ChatOpenAI) -> None:
    one = (say(model, "a1") | say(model, "a2")).stream("", watched())
    two = (say(model, "b1") | say(model, "b2")).stream("", watched())
    for _ in zip(one, two, strict=True):
        model.invoke("between")
    shapes = sorted(by_text(server, graph).shape() for graph in server.graphs())
    assert shapes[:2] == ["a1 > a2", "b1 > b2"]
    assert "between" in shapes[2]


def test_a_stream_that_is_left(server: RecordingServer, model: ChatOpenAI) -> None:
    for _ in (say(model, "one") | model).stream("", watched()):
        break
    (say(model, "two")).invoke("", watched())
    assert [by_text(server, graph).shape() for graph in server.graphs()][-1] == "two"


@pytest.mark.usefixtures("installed")
def test_a_model_by_itself(server: RecordingServer, model: ChatOpenAI) -> None:
    model.invoke("hello")
    asyncio.run(model.ainvoke("hello"))
    assert len(server.calls) == 2
    assert all(call.hints is not None and call.hints.step.agent is None for call in server.calls)
