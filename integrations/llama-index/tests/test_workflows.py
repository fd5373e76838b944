"""Workflows: which steps' model calls waited for which."""

import asyncio
import itertools
from typing import Any

import pytest
from llama_index.core.workflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from llama_index.llms.openai import OpenAI
from workflows.errors import WorkflowCancelledByUser
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

from llmd_agents.client import current_run, program
from llmd_agents.hints import ForkDeclared
from llmd_agents.testing import Failure, Line, Reply
from tests.told import edges, name_steps, named, run, say, told, wait_for


class Work(Event):
    number: int


class Checked(Event):
    number: int


class Done(Event):
    number: int


class Other(Event):
    pass


class Asking(Workflow):
    """A workflow whose steps ask a model."""

    def __init__(self, llm: OpenAI, timeout: float = 20) -> None:
        super().__init__(timeout=timeout)
        self.llm = llm

    async def ask(self, text: str) -> str:
        return str((await self.llm.achat(say(text))).message.content)


class MapReduce(Asking):
    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Work | None:
        await self.ask("plan")
        for number in range(3):
            ctx.send_event(Work(number=number))
        return None

    @step(num_workers=3)
    async def work(self, ev: Work) -> Checked:
        await self.ask(f"work {ev.number}")
        return Checked(number=ev.number)

    @step(num_workers=2)
    async def check(self, ev: Checked) -> Done:
        await self.ask(f"check {ev.number}")
        return Done(number=ev.number)

    @step
    async def reduce(self, ctx: Context, ev: Done) -> StopEvent | None:
        if ctx.collect_events(ev, [Done] * 3) is None:
            return None
        await self.ask("reduce")
        return StopEvent(result="reduced")


MAP_REDUCE = {
    **{("plan", f"work {n}"): 1 for n in range(3)},
    **{(f"work {n}", f"check {n}"): 1 for n in range(3)},
    **{(f"check {n}", "reduce"): 1 for n in range(3)},
}


def test_fan_out_and_fan_in_with_a_chain_between() -> None:
    async def main(llm: OpenAI) -> object:
        return await MapReduce(llm).run()

    with told() as server:
        assert run(server, main) == "reduced"
        graph = named(server, "MapReduce")
    assert graph.outcome == "ok"
    fork = graph.assert_forked(3, name="work")
    assert fork.joined
    assert edges(graph) == MAP_REDUCE
    by_step = graph.labelled(lambda step: step.agent or "?")
    by_step.assert_shape("plan > fork(3: work > check) > reduce")


def test_a_fork_is_declared_before_its_steps_begin() -> None:
    async def main(llm: OpenAI) -> object:
        return await MapReduce(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server)
        declared = [event for event in server.events if isinstance(event, ForkDeclared)]
    assert [fork.width for fork in declared] == [3]
    first = next(call for call in server.calls if call.last_text == "work 0")
    assert first.hints is not None
    assert first.hints.step.fork is not None
    assert first.hints.step.fork.width == 3
    assert first.hints.step.fork.id == declared[0].fork
    assert [fork.id for fork in graph.forks] == [declared[0].fork]


class OneWorker(MapReduce):
    @step(num_workers=1)
    async def work(self, ev: Work) -> Checked:
        await self.ask(f"work {ev.number}")
        return Checked(number=ev.number)

    @step(num_workers=1)
    async def check(self, ev: Checked) -> Done:
        await self.ask(f"check {ev.number}")
        return Done(number=ev.number)


def test_a_fork_that_one_worker_takes_in_turn_is_a_fork() -> None:
    async def main(llm: OpenAI) -> object:
        return await OneWorker(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server, "OneWorker")
    graph.assert_forked(3, name="work")
    assert edges(graph) == MAP_REDUCE


def test_two_at_once() -> None:
    async def main(llm: OpenAI) -> object:
        return await asyncio.gather(MapReduce(llm).run(), MapReduce(llm).run())

    with told() as server:
        run(server, main)
        graphs = [name_steps(server, graph) for graph in server.graphs()]
    assert [edges(graph) for graph in graphs] == [MAP_REDUCE, MAP_REDUCE]


class ByLists(Asking):
    """Fans out by returning a list, and in by taking one."""

    @step
    async def plan(self, ev: StartEvent) -> list[Work]:
        await self.ask("plan")
        return [Work(number=number) for number in range(3)]

    @step
    async def work(self, ev: Work) -> Done:
        await self.ask(f"work {ev.number}")
        return Done(number=ev.number)

    @step
    async def reduce(self, events: list[Done]) -> StopEvent:
        await self.ask("reduce")
        return StopEvent(result=len(events))


def test_lists() -> None:
    async def main(llm: OpenAI) -> object:
        return await ByLists(llm).run()

    with told() as server:
        assert run(server, main) == 3
        graph = named(server)
    assert graph.assert_forked(3, name="work").joined
    assert edges(graph) == {
        **{("plan", f"work {n}"): 1 for n in range(3)},
        **{(f"work {n}", "reduce"): 1 for n in range(3)},
    }


class Unlike(Asking):
    """Two steps of different kinds side by side, and one that takes an event of each."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Work | Other | None:
        await self.ask("plan")
        ctx.send_event(Work(number=0))
        ctx.send_event(Other())
        return None

    @step
    async def work(self, ev: Work) -> Done:
        await self.ask("work")
        await self.ask("work more")
        return Done(number=0)

    @step
    async def other(self, ev: Other) -> Checked:
        await self.ask("other")
        return Checked(number=0)

    @step
    async def both(self, done: Done, checked: Checked) -> StopEvent:
        await self.ask("both")
        return StopEvent(result="both")


def test_steps_of_different_kinds() -> None:
    async def main(llm: OpenAI) -> object:
        return await Unlike(llm).run()

    with told() as server:
        assert run(server, main) == "both"
        graph = named(server)
    assert graph.assert_forked(2).joined
    assert edges(graph) == {
        ("plan", "work"): 1,
        ("plan", "other"): 1,
        ("work", "work more"): 1,
        ("work more", "both"): 1,
        ("other", "both"): 1,
    }


class SameEvent(Asking):
    """Two steps begin from one event."""

    @step
    async def left(self, ev: StartEvent) -> Done:
        await self.ask("left")
        return Done(number=0)

    @step
    async def right(self, ev: StartEvent) -> Checked:
        await self.ask("right")
        return Checked(number=0)

    @step
    async def both(self, done: Done, checked: Checked) -> StopEvent:
        await self.ask("both")
        return StopEvent(result="both")


def test_one_event_for_two_steps() -> None:
    async def main(llm: OpenAI) -> object:
        return await SameEvent(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server)
    graph.assert_forked(2)
    assert edges(graph) == {("left", "both"): 1, ("right", "both"): 1}


class GoesOn(Asking):
    """The step that sends an event does more, which the step that it starts does not wait for."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Work | Other:
        await self.ask("plan")
        ctx.send_event(Work(number=0))
        await self.ask("on")
        return Other()

    @step
    async def work(self, ev: Work) -> Done:
        await self.ask("work")
        return Done(number=0)

    @step
    async def other(self, ev: Other) -> Checked:
        await self.ask("other")
        return Checked(number=0)

    @step
    async def both(self, done: Done, checked: Checked) -> StopEvent:
        await self.ask("both")
        return StopEvent(result="both")


def test_a_sender_that_goes_on() -> None:
    async def main(llm: OpenAI) -> object:
        return await GoesOn(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server)
    assert edges(graph) == {
        ("plan", "on"): 1,
        ("plan", "work"): 1,
        ("on", "other"): 1,
        ("work", "both"): 1,
        ("other", "both"): 1,
    }


class Around(Asking):
    @step
    async def around(self, ev: StartEvent) -> StopEvent:
        await self.ask("before")
        await GoesOn(self.llm).run()
        await self.ask("after")
        return StopEvent(result="around")


def test_what_follows_a_workflow_waits_for_its_last_step() -> None:
    async def main(llm: OpenAI) -> object:
        return await Around(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server, "Around")
    assert edges(graph) == {
        ("before", "plan"): 1,
        ("plan", "on"): 1,
        ("plan", "work"): 1,
        ("on", "other"): 1,
        ("work", "both"): 1,
        ("other", "both"): 1,
        ("both", "after"): 1,
    }


class Looping(Asking):
    @step
    async def draft(self, ev: StartEvent | Work) -> Checked:
        number = ev.number if isinstance(ev, Work) else 0
        await self.ask(f"draft {number}")
        return Checked(number=number)

    @step
    async def judge(self, ev: Checked) -> Work | StopEvent:
        await self.ask(f"judge {ev.number}")
        return Work(number=ev.number + 1) if ev.number < 2 else StopEvent(result="good")


def test_a_loop_stays_on_one_branch() -> None:
    async def main(llm: OpenAI) -> object:
        return await Looping(llm).run()

    with told() as server:
        assert run(server, main) == "good"
        graph = named(server)
    graph.assert_sequential()
    graph.assert_shape(" > ".join(f"draft {n} > judge {n}" for n in range(3)))


class SelfLoop(Asking):
    """Hands the very same event object on."""

    @step
    async def again(self, ev: StartEvent | Work) -> Work | StopEvent:
        if isinstance(ev, StartEvent):
            return Work(number=0)
        await self.ask(f"turn {ev.number}")
        ev.number += 1
        return ev if ev.number < 3 else StopEvent(result=ev.number)


def test_an_event_that_is_handed_on() -> None:
    async def main(llm: OpenAI) -> object:
        return await SelfLoop(llm).run()

    with told() as server:
        assert run(server, main) == 3
        graph = named(server)
    graph.assert_shape("turn 0 > turn 1 > turn 2")


class Nested(Asking):
    @step
    async def outer(self, ctx: Context, ev: StartEvent) -> Work | None:
        await self.ask("first")
        ctx.send_event(Work(number=7))
        ctx.send_event(Work(number=8))
        return None

    @step
    async def inner(self, ev: Work) -> Done:
        await self.ask(f"before {ev.number}")
        await Looping(self.llm).run()
        await self.ask(f"after {ev.number}")
        return Done(number=ev.number)

    @step
    async def last(self, ctx: Context, ev: Done) -> StopEvent | None:
        if ctx.collect_events(ev, [Done, Done]) is None:
            return None
        await self.ask("last")
        return StopEvent(result="nested")


def test_workflows_within_steps_of_another() -> None:
    async def main(llm: OpenAI) -> object:
        return await Nested(llm).run()

    with told() as server:
        assert run(server, main) == "nested"
        graph = named(server, "Nested")
    loop = [f"{part} {n}" for n in range(3) for part in ("draft", "judge")]
    expected = dict.fromkeys(itertools.pairwise(loop), 2)
    for number in (7, 8):
        expected |= {
            ("first", f"before {number}"): 1,
            (f"before {number}", loop[0]): 1,
            (loop[-1], f"after {number}"): 1,
            (f"after {number}", "last"): 1,
        }
    assert edges(graph) == expected


LOOP = dict.fromkeys(itertools.pairwise(f"{part} {n}" for n in range(3) for part in ("draft", "judge")), 1)


class SendsAndRuns(Asking):
    """What is sent does not wait for a workflow that the step runs next."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Work | Other:
        await self.ask("plan")
        ctx.send_event(Work(number=0))
        await Looping(self.llm).run()
        return Other()

    @step
    async def work(self, ev: Work) -> Done:
        await self.ask("work")
        return Done(number=0)

    @step
    async def both(self, done: Done, other: Other) -> StopEvent:
        await self.ask("both")
        return StopEvent(result="both")


def test_a_sender_that_runs_another_workflow() -> None:
    async def main(llm: OpenAI) -> object:
        return await SendsAndRuns(llm).run()

    with told() as server:
        assert run(server, main) == "both"
        graph = named(server, "SendsAndRuns")
    assert edges(graph) == {
        **LOOP,
        ("plan", "draft 0"): 1,
        ("plan", "work"): 1,
        ("judge 2", "both"): 1,
        ("work", "both"): 1,
    }


class Beside(Asking):
    """Calls the model beside a workflow that it runs."""

    @step
    async def all(self, ev: StartEvent) -> StopEvent:
        await self.ask("before")
        await asyncio.gather(self.ask("beside"), Looping(self.llm).run())
        await self.ask("after")
        return StopEvent(result="all")


def test_calls_beside_a_workflow() -> None:
    async def main(llm: OpenAI) -> object:
        return await Beside(llm).run()

    with told() as server:
        assert run(server, main) == "all"
        graph = named(server, "Beside")
    assert edges(graph) == {
        **LOOP,
        ("before", "beside"): 1,
        ("before", "draft 0"): 1,
        ("beside", "after"): 1,
        ("judge 2", "after"): 1,
    }


class TwoLevels(Asking):
    """Forks in branches of a fork."""

    @step
    async def top(self, ctx: Context, ev: StartEvent) -> Work | None:
        await self.ask("top")
        for number in range(2):
            ctx.send_event(Work(number=number))
        return None

    @step
    async def middle(self, ctx: Context, ev: Work) -> Checked | None:
        await self.ask(f"middle {ev.number}")
        for part in range(2):
            ctx.send_event(Checked(number=10 * ev.number + part))
        return None

    @step
    async def leaf(self, ev: Checked) -> Done:
        await self.ask(f"leaf {ev.number}")
        return Done(number=ev.number)

    @step
    async def inner_join(self, ctx: Context, ev: Done) -> Other | None:
        if ctx.collect_events(ev, [Done, Done], buffer_id=str(ev.number // 10)) is None:
            return None
        await self.ask(f"joined {ev.number // 10}")
        return Other()

    @step
    async def end(self, ctx: Context, ev: Other) -> StopEvent | None:
        if ctx.collect_events(ev, [Other, Other]) is None:
            return None
        await self.ask("end")
        return StopEvent(result="two levels")


def test_forks_in_forks() -> None:
    async def main(llm: OpenAI) -> object:
        return await TwoLevels(llm).run()

    with told() as server:
        assert run(server, main) == "two levels"
        graph = named(server)
    assert len(graph.forks) == 3
    assert all(fork.joined for fork in graph.forks)
    assert edges(graph) == {
        **{("top", f"middle {n}"): 1 for n in range(2)},
        **{(f"middle {n}", f"leaf {10 * n + part}"): 1 for n in range(2) for part in range(2)},
        **{(f"leaf {10 * n + part}", f"joined {n}"): 1 for n in range(2) for part in range(2)},
        **{(f"joined {n}", "end"): 1 for n in range(2)},
    }


class AsksAtEach(MapReduce):
    """Calls the model for each event before it has all."""

    @step(num_workers=1)
    async def reduce(self, ctx: Context, ev: Done) -> StopEvent | None:
        await self.ask(f"note {ev.number}")
        if ctx.collect_events(ev, [Done] * 3) is None:
            return None
        await self.ask("reduce")
        return StopEvent(result="reduced")


def test_calls_before_all_is_collected() -> None:
    async def main(llm: OpenAI) -> object:
        return await AsksAtEach(llm).run()

    with told() as server:
        run(server, main)
        graph = named(server)
    assert edges(graph) == {
        **{("plan", f"work {n}"): 1 for n in range(3)},
        **{(f"work {n}", f"check {n}"): 1 for n in range(3)},
        **{(f"check {n}", f"note {n}"): 1 for n in range(3)},
        **{(f"note {n}", "reduce"): 1 for n in range(3)},
    }


class Retrying(Asking):
    @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def fetch(self, ev: StartEvent) -> Work:
        await self.ask("prepare")
        await self.ask("fetch")
        return Work(number=0)

    @step
    async def use(self, ev: Work) -> StopEvent:
        await self.ask("use")
        return StopEvent(result="used")


def test_another_attempt_follows_the_one_that_failed() -> None:
    async def main(llm: OpenAI) -> object:
        return await Retrying(llm).run()

    lines = ("one", Failure(500), "two", "three", "four")
    with told(*lines) as server:
        assert run(server, main) == "used"
        graph = named(server)
    assert graph.outcome == "ok"
    answered = [(one.label, one.failed) for one in graph.steps]
    assert answered == [
        ("prepare", False),
        ("fetch", True),
        ("prepare", False),
        ("fetch", False),
        ("use", False),
    ]
    assert edges(graph) == {
        ("prepare", "fetch"): 2,
        ("prepare", "prepare"): 1,
        ("fetch", "use"): 1,
    }


def test_a_step_that_fails() -> None:
    async def main(llm: OpenAI) -> None:
        with pytest.raises(Exception, match="500"):
            await Looping(llm).run()

    with told("draft", Failure(500)) as server:
        run(server, main)
        graph = named(server, "Looping")
    assert graph.outcome == "error"
    assert edges(graph) == {("draft 0", "judge 0"): 1}


def test_a_run_that_is_cancelled() -> None:
    async def main(llm: OpenAI) -> None:
        handler = MapReduce(llm).run()
        await asyncio.to_thread(wait_for, lambda: len(server.calls) >= 2)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler

    with told(Line("plan", says="plan"), Line(Reply("late", delay=20), times=None)) as server:
        run(server, main)
        graph = named(server, "MapReduce")
    assert graph.outcome == "cancelled"
    assert graph.forks[0].width == 3
    assert set(edges(graph)) <= set(MAP_REDUCE)


def test_a_run_that_takes_too_long() -> None:
    async def main(llm: OpenAI) -> None:
        with pytest.raises(Exception, match="timed out"):
            await MapReduce(llm, timeout=0.3).run()

    with told(Line(Reply("late", delay=20), times=None)) as server:
        run(server, main)
        graph = named(server, "MapReduce")
    assert graph.outcome == "error"


class Interview(Asking):
    @step
    async def ask_person(self, ev: StartEvent) -> InputRequiredEvent:
        await self.ask("question")
        return InputRequiredEvent(prefix="?")

    @step
    async def answered(self, ev: HumanResponseEvent) -> StopEvent:
        await self.ask("conclusion")
        return StopEvent(result=ev.response)


class Waiting(Asking):
    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await self.ask("question")
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="?"))
        await self.ask("conclusion")
        return StopEvent(result=answer.response)


@pytest.mark.parametrize("workflow", [Interview, Waiting])
def test_a_person_is_asked(workflow: type[Asking]) -> None:
    async def main(llm: OpenAI) -> object:
        handler = workflow(llm).run()
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response="yes"))
        return await handler

    with told() as server:
        assert run(server, main) == "yes"
        graph = named(server)
    graph.assert_sequential()
    # A step that waits is run again from its beginning.
    asked = ["question"] if workflow is Interview else ["question", "question"]
    graph.assert_shape(" > ".join([*asked, "conclusion"]))


class Answering(Asking):
    """Answers what a workflow within it asks a person."""

    @step
    async def answer(self, ev: StartEvent) -> StopEvent:
        await self.ask("before")
        handler = Interview(self.llm).run()
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response="yes"))
        await handler
        await self.ask("after")
        return StopEvent(result="answered")


def test_a_step_of_another_workflow_is_asked() -> None:
    async def main(llm: OpenAI) -> object:
        return await Answering(llm).run()

    with told() as server:
        assert run(server, main) == "answered"
        graph = named(server, "Answering")
    graph.assert_shape("before > question > conclusion > after")


class Sync(Asking):
    @step
    def first(self, ev: StartEvent) -> Work:
        self.llm.chat(say("first"))
        return Work(number=0)

    @step
    def second(self, ev: Work) -> StopEvent:
        self.llm.chat(say("second"))
        return StopEvent(result="sync")


def test_steps_that_are_no_coroutines() -> None:
    async def main(llm: OpenAI) -> object:
        return await Sync(llm).run()

    with told() as server:
        assert run(server, main) == "sync"
        graph = named(server, "Sync")
    graph.assert_shape("first > second")


class Streaming(Asking):
    @step
    async def stream(self, ev: StartEvent) -> Work:
        async for _ in await self.llm.astream_chat(say("stream")):
            pass
        for _ in self.llm.stream_chat(say("stream too")):
            pass
        return Work(number=0)

    @step
    async def after(self, ev: Work) -> StopEvent:
        await asyncio.gather(self.ask("one"), self.ask("other"))
        await self.llm.acomplete("complete")
        return StopEvent(result="streamed")


def test_streams_and_calls_side_by_side() -> None:
    async def main(llm: OpenAI) -> object:
        return await Streaming(llm).run()

    with told() as server:
        assert run(server, main) == "streamed"
        graph = named(server)
    assert edges(graph) == {
        ("stream", "stream too"): 1,
        ("stream too", "one"): 1,
        ("stream too", "other"): 1,
        ("one", "complete"): 1,
        ("other", "complete"): 1,
    }


class Declared(Asking):
    @step
    async def declare(self, ev: StartEvent) -> Work:
        await self.ask("plan")
        run = current_run()
        assert run is not None
        async with run.fork(2, name="own") as fork:
            with run.label(kind="think", agent="me"):
                await fork.map(lambda number: self.ask(f"own {number}"), range(2))
        with run.label(agent="writer"):
            await self.ask("write")
        return Work(number=0)

    @step
    async def after(self, ev: Work) -> StopEvent:
        await self.ask("after")
        return StopEvent(result="declared")


def test_what_the_developer_declares_wins() -> None:
    async def main(llm: OpenAI) -> object:
        with program("mine", priority=80):
            await llm.achat(say("before"))
            return await Declared(llm).run()

    with told() as server:
        assert run(server, main) == "declared"
        graph = named(server, "mine")
        (only,) = server.graphs()
    assert only.priority == 80
    assert graph.assert_forked(2, name="own").joined
    assert edges(graph) == {
        ("before", "plan"): 1,
        ("plan", "own 0"): 1,
        ("plan", "own 1"): 1,
        ("own 0", "write"): 1,
        ("own 1", "write"): 1,
        ("write", "after"): 1,
    }
    agents = {step.label: step.agent for step in graph.steps}
    assert agents["write"] == "writer"
    assert agents["after"] == "after"


def test_runs_of_one_context_are_one_program() -> None:
    async def main(llm: OpenAI) -> None:
        workflow = Looping(llm)
        context: Context[Any] = Context(workflow)
        await workflow.run(ctx=context)
        await workflow.run(ctx=context)
        await workflow.run()

    with told() as server:
        run(server, main)
        sizes = sorted(len(graph.steps) for graph in server._graphs())
    assert sizes == [6, 12]
