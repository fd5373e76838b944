"""Workflows: which steps' model calls waited for which."""

from typing import Any

from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai import OpenAI

from tests.told import edges, named, run, say, told


class Work(Event):
    number: int


class Checked(Event):
    number: int


class Done(Event):
    number: int


class Asking(Workflow):
    """A workflow whose steps ask a model."""

    def __init__(self, llm: Any, **options: Any) -> None:
        super().__init__(timeout=20, **options)
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


def test_fan_out_and_fan_in_with_a_chain_between() -> None:
    async def main(llm: OpenAI) -> object:
        return await MapReduce(llm).run()

    with told() as server:
        assert run(server, main) == "reduced"
        graph = named(server, "MapReduce")
    assert graph.outcome == "ok"
    fork = graph.assert_forked(3, name="work")
    assert fork.joined
    assert edges(graph) == {
        **{("plan", f"work {n}"): 1 for n in range(3)},
        **{(f"work {n}", f"check {n}"): 1 for n in range(3)},
        **{(f"check {n}", "reduce"): 1 for n in range(3)},
    }
    assert {step.agent for step in graph.steps} == {"plan", "work", "check", "reduce"}
    by_step = graph.labelled(lambda step: step.agent or "?")
    by_step.assert_shape("plan > fork(3: work > check) > reduce")
