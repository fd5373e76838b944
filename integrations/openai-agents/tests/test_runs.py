"""Runs of every kind: in threads, at once, in one conversation, resumed, failing, cancelled."""

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    agent_span,
    function_tool,
    generation_span,
    set_default_openai_api,
    set_tracing_disabled,
    trace,
)
from agents.tracing import turn_span
from openai import AsyncOpenAI, InternalServerError

from llmd_agents.client import current_scope
from llmd_agents.testing import Failure, Line, recording_server
from llmd_agents_openai_agents import model_provider
from llmd_agents_openai_agents.open_parts import open_parts

from .told import asks, edges, ran, says, within

streamed_or_not = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Any:
    yield
    assert len(open_parts) == 0
    assert current_scope() is None


@pytest.mark.parametrize("responses", [False, True])
def test_the_provider_gives_models_of_both_apis(responses: bool) -> None:
    async def main() -> None:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
            models = model_provider(client, use_responses=responses)
            kind = OpenAIResponsesModel if responses else OpenAIChatCompletionsModel
            assert isinstance(models.get_model("m"), kind)
            options = RunConfig(model="m", model_provider=models)
            await Runner.run(Agent[None]("whole"), "begin", run_config=options)
            result = Runner.run_streamed(Agent[None]("streamed"), "begin", run_config=options)
            async for _ in result.stream_events():
                pass

    with recording_server(says("whole"), says("streamed")) as server:
        asyncio.run(main())
        shapes = [graph.shape() for graph in server.graphs()]
    assert shapes == ["whole", "streamed"]
    path = "/v1/responses" if responses else "/v1/chat/completions"
    assert [call.path for call in server.calls] == [path, path]


def test_a_client_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="AsyncOpenAI"):
        model_provider(object())  # type: ignore[arg-type]


def test_run_sync() -> None:
    @function_tool
    def look_up() -> str:
        return "found"

    agent = Agent[None]("agent", tools=[look_up])
    with recording_server(asks("agent", "look_up"), says("agent")) as server:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        client = AsyncOpenAI(base_url=server.base_url, api_key="none")
        set_default_openai_api("chat_completions")
        options = RunConfig(model_provider=model_provider(client))
        try:
            told = Runner.run_sync(agent, "begin", run_config=options)
            loop.run_until_complete(client.close())
            # The SDK leaves the loop open; its executor may hold threads of tools.
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
        graph = server.graph()
    assert told.final_output == "agent is done"
    assert edges(graph) == {"agent1 > agent2"}
    graph.assert_tools(["look_up"])


def test_runs_at_once_are_programs_of_their_own() -> None:
    async def main() -> None:
        await asyncio.gather(
            *(
                Runner.run(
                    Agent[None](f"a{number}", handoffs=[Agent[None](f"b{number}")]),
                    "begin",
                    run_config=RunConfig(workflow_name=f"workflow {number}"),
                )
                for number in range(3)
            )
        )

    lines = [asks(f"a{number}", f"transfer_to_b{number}") for number in range(3)]
    with recording_server(*lines, *(says(f"b{number}") for number in range(3))) as server:
        within(server, main)
        told = {graph.name: edges(graph) for graph in server.graphs()}
    assert told == {f"workflow {number}": {f"a{number}1 > b{number}1"} for number in range(3)}


@streamed_or_not
def test_a_conversation_is_one_program(streamed: bool) -> None:
    session = SQLiteSession("conversation-4711")
    with recording_server(says("agent", times=2), events_status=202) as server:
        for _ in range(2):
            ran(
                server,
                Agent[None]("agent"),
                streamed=streamed,
                session=session,
                group_id=session.session_id + str(streamed),
                workflow_name="chat",
            )
        programs = {hints.program.id for hints in server.hints}
        steps = [hints.step for hints in server.hints]
    session.close()
    assert len(programs) == 1
    assert [(step.branch, list(step.parents)) for step in steps] == [("main", []), ("main", [steps[0].id])]
    assert "4711" not in str([dict(call.headers) for call in server.calls])


def test_a_trace_of_several_runs_is_one_program() -> None:
    async def main() -> None:
        with trace("review"):
            await Runner.run(Agent[None]("writer"), "begin")
            critic = Agent[None]("critic", handoffs=[Agent[None]("poet")])
            await asyncio.gather(Runner.run(critic, "begin"), Runner.run(Agent[None]("lawyer"), "begin"))
            await Runner.run(Agent[None]("editor"), "begin")

    lines = asks("critic", "transfer_to_poet"), *map(says, ("writer", "poet", "lawyer", "editor"))
    with recording_server(*lines) as server:
        within(server, main)
        graph = server.graph("review")
    assert edges(graph) == {
        "writer1 > critic1",
        "writer1 > lawyer1",
        "critic1 > poet1",
        "poet1 > editor1",
        "lawyer1 > editor1",
    }


@pytest.mark.parametrize("with_turns", [True, False])
@pytest.mark.parametrize("group", [None, "approvals"])
def test_a_run_that_is_resumed_from_its_state(group: str | None, with_turns: bool) -> None:
    @function_tool(needs_approval=True)
    def pay() -> str:
        return "paid"

    async def main() -> None:
        options = RunConfig(
            workflow_name="payments",
            group_id=None if group is None else f"{group} {with_turns}",
            tracing={"include_task_and_turn_spans": with_turns},
        )
        first = await Runner.run(agent, "begin", run_config=options)
        state = first.to_state()
        for one in first.interruptions:
            state.approve(one)
        await Runner.run(agent, state, run_config=options)

    agent = Agent[None]("payer", tools=[pay])
    with recording_server(asks("payer", "pay"), says("payer")) as server:
        within(server, main)
        programs = {hints.program.id for hints in server.hints}
        steps = [hints.step for hints in server.hints]
    assert [step.agent for step in steps] == ["payer", "payer"]
    if group is None:
        assert len(programs) == 2
    else:
        assert len(programs) == 1
        assert list(steps[1].parents) == [steps[0].id]


@streamed_or_not
def test_a_tool_that_fails(streamed: bool) -> None:
    @function_tool
    def break_down() -> str:
        raise RuntimeError("it broke down")

    agent = Agent[None]("agent", tools=[break_down])
    with recording_server(asks("agent", "break_down"), says("agent")) as server:
        ran(server, agent, streamed=streamed)
        graph = server.graph()
    assert edges(graph) == {"agent1 > agent2"}
    assert [(tool.name, tool.outcome) for tool in graph.tools] == [("break_down", "error")]
    assert graph.outcome == "ok"


@streamed_or_not
def test_a_tool_whose_failure_ends_the_run(streamed: bool) -> None:
    @function_tool(failure_error_function=None)
    def break_down() -> str:
        raise RuntimeError("it broke down")

    agent = Agent[None]("agent", tools=[break_down])
    with recording_server(asks("agent", "break_down")) as server:
        with pytest.raises(Exception, match="it broke down"):
            ran(server, agent, streamed=streamed)
        graph = server.graph()
    assert graph.outcome == "error"
    assert [(tool.name, tool.outcome) for tool in graph.tools] == [("break_down", "error")]


@streamed_or_not
def test_too_many_turns(streamed: bool) -> None:
    @function_tool
    def look_up() -> str:
        return "nothing"

    agent = Agent[None]("agent", tools=[look_up])
    with recording_server(asks("agent", "look_up"), asks("agent", "look_up")) as server:
        with pytest.raises(MaxTurnsExceeded):
            ran(server, agent, streamed=streamed, max_turns=2)
        graph = server.graph()
    assert edges(graph) == {"agent1 > agent2"}
    assert graph.outcome == "error"


@streamed_or_not
@pytest.mark.parametrize("responses", [False, True])
def test_a_model_that_fails(streamed: bool, responses: bool) -> None:
    with recording_server(Line(Failure(500), agent="agent")) as server:
        with pytest.raises(InternalServerError):
            ran(server, Agent[None]("agent"), streamed=streamed, responses=responses)
        graph = server.graph()
    assert graph.shape() == "agent!"
    assert graph.outcome == "error"


@streamed_or_not
def test_a_guardrail_that_stops_the_run(streamed: bool) -> None:
    async def check(*_: Any) -> GuardrailFunctionOutput:
        await Runner.run(Agent[None]("law"), "is that fine?")
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    agent = Agent[None]("agent", input_guardrails=[InputGuardrail(check, run_in_parallel=False)])
    with recording_server(says("law")) as server:
        with pytest.raises(InputGuardrailTripwireTriggered):
            ran(server, agent, streamed=streamed)
        graph = server.graph()
    assert graph.shape() == "law/evaluate" or graph.shape().endswith("law/evaluate")
    assert graph.outcome == "error"


@streamed_or_not
def test_a_run_that_is_cancelled(streamed: bool) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        @function_tool
        async def wait_for_ever() -> str:
            entered.set()
            await asyncio.Event().wait()
            return "never"

        agent = Agent[None]("agent", tools=[wait_for_ever])
        if streamed:
            result = Runner.run_streamed(agent, "begin")
            await entered.wait()
            result.cancel()
            async for _ in result.stream_events():
                pass
            assert result.run_loop_task is not None
            await asyncio.gather(result.run_loop_task, return_exceptions=True)
        else:
            task = asyncio.create_task(Runner.run(agent, "begin"))
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with recording_server(asks("agent", "wait_for_ever")) as server:
        within(server, main)
        graph = server.graph()
    assert graph.shape() == "agent"
    assert graph.outcome == "cancelled"
    assert [(tool.name, tool.outcome) for tool in graph.tools] == [("wait_for_ever", "cancelled")]


def test_spans_that_end_before_those_within() -> None:
    with trace("leaving"):
        agent = agent_span("agent")
        agent.start()
        turn = turn_span(2, "agent", parent=agent)
        turn.start()
        call = generation_span(parent=turn)
        call.start()
        turn.finish()
        call.finish()
        part = open_parts.get(agent.span_id)
        assert part is not None
        assert not part.scope.ended
        agent.finish()
        assert part.scope.ended


def test_a_run_while_an_exception_is_handled_has_not_failed() -> None:
    async def main() -> None:
        try:
            raise RuntimeError("earlier")
        except RuntimeError:
            await Runner.run(Agent[None]("agent"), "begin")

    with recording_server(says("agent")) as server:
        within(server, main)
        assert server.graph().outcome == "ok"


@streamed_or_not
def test_without_tracing_calls_are_steps_without_structure(streamed: bool) -> None:
    @function_tool
    def look_up() -> str:
        return "found"

    agent = Agent[None]("agent", tools=[look_up])
    lines = Line(asks("agent", "look_up").answer), "done"
    with recording_server(*lines) as server:
        ran(server, agent, streamed=streamed, tracing_disabled=True)
        set_tracing_disabled(True)
        server.script.add("done")
        ran(server, agent, streamed=streamed)
    assert [hints.step.agent for hints in server.hints] == [None, None, None]
    assert list(server.hints[1].step.parents) == [server.hints[0].step.id]
