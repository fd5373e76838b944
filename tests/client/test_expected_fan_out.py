"""A fan-out whose scopes may all do without model calls is told of once one of them makes any."""

from openai import OpenAI

from llmd_agents import instrument
from llmd_agents.client import FanOut, Scope, begin_scope
from llmd_agents.hints import ForkDeclared
from llmd_agents.testing import Line, ProgramGraph, recording_server


def run(*, asking: bool, declaring: bool) -> ProgramGraph:
    """Runs plan > fan-out of two scopes, the first of which may ask > end."""
    with recording_server(Line("fine", times=None)) as server:
        with instrument(OpenAI(base_url=server.base_url, api_key="k")) as client:

            def ask(scope: Scope, label: str) -> None:
                with scope.open(agent=label):
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": label}])

            with begin_scope("flow") as flow:
                ask(flow, "plan")
                fan_out = flow.expect_fan_out(2, "work")
                assert isinstance(fan_out, FanOut)
                first, second = flow.open(of=fan_out), flow.open(of=fan_out)
                if declaring:
                    fan_out.declare()
                if asking:
                    ask(first, "act")
                first.end()
                second.end()
                ask(flow, "end")
        graph = server.graph("flow")
        declared = [event for event in server.events if isinstance(event, ForkDeclared)]
        assert len(declared) == len(graph.forks)
        return graph


def test_no_step_no_trace() -> None:
    graph = run(asking=False, declaring=False)
    graph.assert_shape("plan > end")
    assert [branch.id for branch in graph.branches] == ["main"]


def test_a_step_tells_of_it() -> None:
    for declaring in (True, False):
        graph = run(asking=True, declaring=declaring)
        graph.assert_shape("plan > fork(act | -) > end")
        assert graph.assert_forked(2, name="work").joined


def test_what_is_declared_stays_so() -> None:
    run(asking=False, declaring=True).assert_shape("plan > fork(2: -) > end")


def test_forks_within_a_branch_that_makes_no_step_itself() -> None:
    with recording_server(Line("fine", times=None)) as server:
        with instrument(OpenAI(base_url=server.base_url, api_key="k")) as client:

            def ask(scope: Scope, label: str) -> None:
                with scope.open(agent=label):
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": label}])

            with begin_scope("flow") as flow:
                ask(flow, "plan")
                outer = flow.fan_out(2)
                with flow.open(of=outer) as one:
                    ask(one, "a")
                with flow.open(of=outer) as other:
                    inner = other.fan_out(2)
                    for label in ("b", "c"):
                        with other.open(of=inner) as part:
                            ask(part, label)
                ask(flow, "end")
        graph = server.graph("flow")
    graph.assert_edges({"plan": ["a", "b", "c"], "a": ["end"], "b": ["end"], "c": ["end"]})
