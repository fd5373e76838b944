"""Whatever requests do: without a word the same victims as vLLM's own policy, and never fewer with hints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.v1.kv_offload.base import OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from llmd_agents.hints import Estimate
from llmd_agents_vllm.offload.policy import AgentOffloadPolicy

from .stories import END, LATE, POLICY_MODULE, SOON, TOKENS, Clock, Part, block_hash, carried, ticking

GROUPS = 2


@dataclass(frozen=True)
class Action:
    """One thing that vLLM, or a connector, does.

    Attributes:
        kind: run, begin, store, stored, failed, load, loaded, finish, touch, reset, estimate, release; a run
            is a whole request.
        path: letters of a prompt, for what begins a request or names a context.
        which: of the requests under way, or of the transfers.
        start: of the chunks that are stored or loaded.
    """

    kind: str
    path: str
    which: int
    start: int
    params: Any


paths = st.text("abc", min_size=1, max_size=6)
positions = st.integers(0, 5)
KINDS = ("begin", "store", "stored", "failed", "load", "loaded", "finish", "touch")


def actions(params: st.SearchStrategy[Any], *further: str) -> st.SearchStrategy[list[Action]]:
    kinds = st.sampled_from(KINDS + ("run",) * 8 + further)
    return st.lists(st.builds(Action, kinds, paths, positions, positions, params), max_size=60)


unhelpful = st.sampled_from(
    [
        None,
        {},
        {"llmd_agents": 5},
        {"llmd_agents": {"v": 1, "header": "?"}},
        {"other": 1},
        carried(),
        carried("ab", program="q"),
    ]
)


@st.composite
def helpful(draw: st.DrawFn) -> Any:
    forecast = draw(st.sampled_from([SOON, LATE, END, None, {"next": "fork"}, {"next": "join"}]))
    types = st.sampled_from(["system_prompt", "document", "conversation_turn", "scratch"])
    lifetimes = st.sampled_from([None, None, "step", "branch", "program", 15.0])
    parts = [
        Part(letters, draw(types), draw(lifetimes))
        for letters in draw(st.lists(paths, min_size=1, max_size=3))
    ]
    return carried(
        *parts,
        program=draw(st.sampled_from(["p", "q"])),
        branch=draw(st.sampled_from(["main", "b1"])),
        step=draw(st.sampled_from(["1", "2"])),
        parents=draw(st.sampled_from([[], ["1"]])),
        forecast=forecast,
        scope=draw(st.sampled_from([None, "one"])),
    )


class Engine:
    """Drives one manager through actions as vLLM's scheduler would; what makes no sense is left out."""

    def __init__(self, chunks: int, clock: Clock, policy: str, module: str | None) -> None:
        self.manager = CPUOffloadingManager(chunks, policy, module)
        self.clock = clock
        self.requests: dict[str, tuple[str, ReqContext]] = {}
        self.transfers: list[tuple[bool, Sequence[OffloadKey], ReqContext]] = []
        self.begun = 0

    def keys(self, path: str) -> list[OffloadKey]:
        return [
            make_offload_key(block_hash(path[: end + 1]), group)
            for group in range(GROUPS)
            for end in range(len(path))
        ]

    def do(self, action: Action) -> object:
        """Returns what the manager answered."""
        match action.kind:
            case "begin":
                self.begun += 1
                context = ReqContext(f"r{self.begun}", action.params)
                for index, key in enumerate(self.keys(action.path)):
                    context.set_offload_key_position(key, (index % len(action.path) + 1) * TOKENS)
                self.manager.on_new_request(context)
                self.requests[context.req_id] = (action.path, context)
            case "run":
                self.do(replace(action, kind="begin"))
                req_id = f"r{self.begun}"
                answer = self._go_on(req_id, replace(action, kind="store", start=0))
                self._go_on(req_id, replace(action, kind="finish"))
                if answer != "full" and self.transfers and self.transfers[-1][2].req_id == req_id:
                    self.do(Action("stored", "", len(self.transfers) - 1, 0, None))
                return answer
            case "stored" | "failed" | "loaded":
                if not self.transfers:
                    return None
                store, keys, context = self.transfers.pop(action.which % len(self.transfers))
                if store:
                    self.manager.complete_store(keys, context, action.kind != "failed")
                else:
                    self.manager.complete_load(keys, context)
            case "reset":
                self.manager.reset_cache()
                self.transfers.clear()
            case "touch":
                self.manager.touch(self.keys(action.path), ReqContext("t"))
            case "estimate" | "release":
                self._direct(action)
            case _ if self.requests:
                req_id = sorted(self.requests)[action.which % len(self.requests)]
                return self._go_on(req_id, action)
        return None

    def _go_on(self, req_id: str, action: Action) -> object:
        path, context = self.requests[req_id]
        if action.kind == "finish":
            self.manager.on_request_finished(context)
            del self.requests[req_id]
            return None
        keys = [
            key for key in self.keys(path) if context.get_offload_key_position(key) > action.start * TOKENS
        ]
        if action.kind == "store":
            output = self.manager.prepare_store(keys, context)
            if output is None:
                return "full"
            if output.keys_to_store:
                self.transfers.append((True, output.keys_to_store, context))
            return (output.keys_to_store, output.evicted_keys)
        ready = [key for key in keys if (chunk := self.manager._policy.get(key)) and chunk.is_ready]
        if ready:
            self.manager.prepare_load(ready, context)
            self.transfers.append((False, ready, context))
        return ready

    def _direct(self, action: Action) -> None:
        policy = self.manager._policy
        assert isinstance(policy, AgentOffloadPolicy)
        hashes = [block_hash(action.path[: end + 1]) for end in range(len(action.path))]
        if action.kind == "release":
            policy.released(hashes[action.start :])
            return
        now = self.clock.now
        weight = action.which / 5
        policy.estimated(hashes, Estimate(now, 20.0 + action.start, 0.3, now + 100.0, weight))


def run(chunks: int, steps: Sequence[Action], policy: str, module: str | None) -> list[object]:
    with ticking() as clock:
        engine = Engine(chunks, clock, policy, module)
        answers = []
        for action in steps:
            clock.now += clock.step
            answers.append(engine.do(action))
            if isinstance(engine.manager._policy, AgentOffloadPolicy):
                check(engine)
        return answers


def check(engine: Engine) -> None:
    """The books agree with what is there."""
    policy = engine.manager._policy
    books = policy._ledger
    assert books is not None, "the books were found at fault"
    held = set(policy._lru.chunks)
    assert {key for stretch in books._tree for key in stretch.keys} == held
    assert len(books) == len(held)
    for stretch in books._tree:
        assert stretch.keys
        assert all(child.parent is stretch for child in stretch.children)
    for tip in books._tips.values():
        assert tip.anchors
        assert all(anchor.keys and anchor.tips[tip.key] is tip for anchor in tip.anchors)
    assert set(books._estimated) <= set(books._tips.values())


@settings(max_examples=200)
@given(chunks=st.integers(1, 14), steps=actions(unhelpful, "reset"))
def test_without_a_word_the_victims_are_those_of_vllms_own_policy(chunks: int, steps: list[Action]) -> None:
    assert run(chunks, steps, "AgentOffloadPolicy", POLICY_MODULE) == run(chunks, steps, "lru", None)


@settings(max_examples=100)
@given(chunks=st.integers(1, 14), steps=actions(unhelpful))
def test_worthless_estimates_change_no_victim(chunks: int, steps: list[Action]) -> None:
    told: list[Action] = []
    for step in steps:
        told += [step, Action("estimate", step.path, 0, step.start, None)]
    answers = run(chunks, told, "AgentOffloadPolicy", POLICY_MODULE)
    assert answers[::2] == run(chunks, steps, "lru", None)


@settings(max_examples=300)
@given(chunks=st.integers(1, 14), steps=actions(helpful(), "estimate", "release", "reset"))
def test_hints_change_which_goes_and_never_how_much(chunks: int, steps: list[Action]) -> None:
    # What is asked for can be given up under any order or under none, as long as the same is there.
    with ticking() as clock:
        engine = Engine(chunks, clock, "AgentOffloadPolicy", POLICY_MODULE)
        for action in steps:
            clock.now += clock.step
            policy = engine.manager._policy
            protected = set(engine.keys(action.path))
            engine.do(action)
            check(engine)
            idle = {key for key, chunk in policy._lru.chunks.items() if chunk.ref_cnt == 0}
            able = len(idle - protected)
            before = dict(policy._lru.chunks)
            assert policy.evict(able + 1, protected) is None
            assert policy._lru.chunks == before
            check(engine)
            if action.kind == "touch":
                evicted = policy.evict(able, protected)
                assert evicted is not None
                assert {key for key, _ in evicted} == idle - protected
                engine.manager._num_evictable_cache_chunks -= len(evicted)
                for _, chunk in evicted:
                    engine.manager._free_chunk(chunk)
                check(engine)
