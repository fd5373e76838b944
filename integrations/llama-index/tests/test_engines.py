"""Query engines, chat engines, and calls outside of both."""

import asyncio

from llama_index.core import Document, SummaryIndex
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import TransformQueryEngine
from llama_index.llms.openai import OpenAI
from llama_index_instrumentation import get_dispatcher

from llmd_agents import program
from tests.told import edges, name_steps, named, run, say, told

TEXTS = ("Tides come twice a day.", "The moon pulls the sea.", "Wind makes waves.", "Salt stays behind.")


def index() -> SummaryIndex:
    return SummaryIndex.from_documents([Document(text=text) for text in TEXTS])


def test_a_query_is_a_program() -> None:
    async def main(llm: OpenAI) -> str:
        return str(await index().as_query_engine(llm=llm).aquery("What of tides?"))

    with told("twice") as server:
        assert run(server, main) == "twice"
        graph = server.graph("RetrieverQueryEngine")
    assert graph.outcome == "ok"
    assert len(graph.steps) == 1


def test_refinements_follow_each_other() -> None:
    async def main(llm: OpenAI) -> str:
        llm.max_tokens = 16
        engine = index().as_query_engine(llm=llm, response_mode="refine")
        return str(await asyncio.to_thread(engine.query, "What of tides?"))

    with told("one", "two", "three", "four") as server:
        assert run(server, main) == "four"
        graph = server.graph("RetrieverQueryEngine")
    assert len(graph.steps) == 4
    graph.assert_sequential()
    assert len(graph.edges) == 3


def test_what_overlaps_in_a_query_is_side_by_side() -> None:
    async def main(llm: OpenAI) -> object:
        engine = index().as_query_engine(llm=llm, response_mode="accumulate", use_async=True)
        with_hyde = TransformQueryEngine(engine, HyDEQueryTransform(llm=llm))
        return await with_hyde.aquery("What of tides?")

    with told() as server:
        run(server, main)
        graph = server.graph("TransformQueryEngine")
    first, *others = graph.steps
    assert len(others) == 4
    assert {(one.id, other.id) for one, other in graph.edges} == {(first.id, other.id) for other in others}


def test_queries_at_the_same_time_are_programs_of_their_own() -> None:
    async def main(llm: OpenAI) -> None:
        engine = index().as_query_engine(llm=llm)
        await asyncio.gather(engine.aquery("one"), engine.aquery("two"))

    with told() as server:
        run(server, main)
        assert [len(graph.steps) for graph in server.graphs()] == [1, 1]


def test_in_a_program_queries_are_part_of_it() -> None:
    async def main(llm: OpenAI) -> None:
        engine = index().as_query_engine(llm=llm)
        with program("research"):
            await llm.achat(say("plan"))
            await asyncio.gather(engine.aquery("one"), engine.aquery("two"))
            await llm.achat(say("end"))

    with told() as server:
        run(server, main)
        (graph,) = server.graphs()
    graph = name_steps(server, graph)
    assert graph.name == "research"
    asked = sorted(step.label for step in graph.steps if step.label not in ("plan", "end"))
    assert len(asked) == 2
    assert edges(graph) == {
        **{("plan", label): 1 for label in asked},
        **{(label, "end"): 1 for label in asked},
    }


def test_a_query_that_streams() -> None:
    async def main(llm: OpenAI) -> str:
        engine = index().as_query_engine(llm=llm, streaming=True)
        with program("reading"):
            answer = await engine.aquery("What of tides?")
            text = "".join([piece async for piece in answer.async_response_gen()])  # type: ignore[union-attr]
            await llm.achat(say("and then"))
        return text

    with told("twice a day", "fine") as server:
        assert run(server, main) == "twice a day"
        graph = server.graph("reading")
    assert len(graph.steps) == 2
    graph.assert_sequential()


def chat_engine(llm: OpenAI) -> SimpleChatEngine:
    return SimpleChatEngine(llm, ChatMemoryBuffer.from_defaults(token_limit=1000), [])


def test_a_chat_is_one_program_on_one_branch() -> None:
    async def main(llm: OpenAI) -> None:
        engine, other = chat_engine(llm), chat_engine(llm)
        await engine.achat("one")
        await asyncio.to_thread(engine.chat, "two")
        await other.achat("alone")

    with told() as server:
        run(server, main)
        graphs = sorted(
            (name_steps(server, graph) for graph in server._graphs()), key=lambda one: one.shape()
        )
    assert [graph.shape() for graph in graphs] == ["alone", "one > two"]
    assert {graph.name for graph in graphs} == {"SimpleChatEngine"}


def test_a_chat_that_streams() -> None:
    async def main(llm: OpenAI) -> None:
        engine = chat_engine(llm)
        for text in ("one", "two"):
            async for _ in (await engine.astream_chat(text)).async_response_gen():
                pass
        await asyncio.to_thread(lambda: list(engine.stream_chat("three").response_gen))

    with told() as server:
        run(server, main)
        (graph,) = server._graphs()
    name_steps(server, graph).assert_shape("one > two > three")


def test_a_call_that_belongs_to_nothing_declares_nothing() -> None:
    async def main(llm: OpenAI) -> None:
        await llm.achat(say("hello"))

    with told() as server:
        run(server, main)
        (graph,) = server._graphs()
    assert graph.name == "undeclared"


def test_functions_with_spans_of_their_own_are_parts() -> None:
    span = get_dispatcher(__name__).span

    async def main(llm: OpenAI) -> None:
        @span
        async def pair(name: str) -> None:
            await llm.achat(say(f"{name} 1"))
            await llm.achat(say(f"{name} 2"))

        with program("pairs"):
            await asyncio.gather(pair("a"), pair("b"))
            await llm.achat(say("end"))

    with told() as server:
        run(server, main)
        graph = named(server, "pairs")
    assert edges(graph) == {("a 1", "a 2"): 1, ("b 1", "b 2"): 1, ("a 2", "end"): 1, ("b 2", "end"): 1}
