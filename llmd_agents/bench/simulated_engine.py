"""One embedded engine of a simulated fleet, across a network: what HTTP does for a real one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmd_agents.engine import EngineLoop, EngineRequest, PeerRead
from llmd_agents.engine.tokenizer import BYTES_PER_TOKEN
from llmd_agents.hints import DirectiveOutcome, ResidencyBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llmd_agents.engine import EngineCore, Export, Reply, RequestStats, StepOutput
    from llmd_agents.engine.completion import Completion
    from llmd_agents.hints import Directive, EngineKv


class SimulatedEngine:
    """Runs an engine's core in the event loop's own (virtual) time.

    Args:
        report: takes each batch of residency events as the engine sends it.
    """

    def __init__(self, name: str, core: EngineCore, report: Callable[[str, ResidencyBatch], None]) -> None:
        self.name = name
        self.core = core
        self._report = report
        self._batches = 0
        self._ended: dict[str, asyncio.Future[RequestStats | None]] = {}
        self._loop = EngineLoop(
            core,
            time_scale=1.0,
            on_step=self._on_step,
            on_end=self._on_end,
            wall=asyncio.get_running_loop().time,
        )

    def start(self) -> None:
        self._loop.start()
        self._report(self.name, ResidencyBatch(epoch=self.name, seq=0, snapshot=True))

    def stop(self) -> None:
        self._loop.stop()

    def kv(self) -> EngineKv:
        return self._loop.kv(self.name)

    def submit(
        self, request_id: str, completion: Completion, *, of_branch: bool
    ) -> tuple[Reply, asyncio.Future[RequestStats | None]]:
        """Queues a request that arrives now; the future is done when it has ended, None if dropped.

        Raises:
            RequestTooLarge: if it could never run.
        """
        return self._submit(completion.request(request_id, of_branch=of_branch))

    async def direct(
        self, action_id: str, directive: Directive, peers: Mapping[str, SimulatedEngine], network_s: float
    ) -> DirectiveOutcome:
        """Carries out a directive that arrives now; a peer is asked across the network."""
        answer = self._loop.direct(action_id, directive)
        if not isinstance(answer, PeerRead):
            return answer
        await asyncio.sleep(network_s)
        export = peers[answer.peer].export(answer.digest, answer.scope)
        await asyncio.sleep(network_s)
        return self._loop.receive(answer, export)

    async def warm_up(self, action_id: str, digest: bytes, completion: Completion) -> DirectiveOutcome:
        """Computes a context that the prompt of another engine's call begins with."""
        tokens = dict(completion.boundaries).get(digest, len(completion.prompt))
        request = EngineRequest(
            id=action_id,
            prompt=completion.prompt.tokens[: tokens * BYTES_PER_TOKEN],
            output=completion.output[:BYTES_PER_TOKEN],
            root=completion.root,
            boundaries=tuple(item for item in completion.boundaries if item[1] <= tokens),
            scope=completion.scope,
        )
        _, ended = self._submit(request)
        stats = await ended
        if stats is None:
            return DirectiveOutcome(action_id=action_id, outcome="rejected", reason="the engine has stopped")
        return DirectiveOutcome(action_id=action_id, outcome="applied", tokens=tokens)

    def export(self, digest: bytes, scope: str | None) -> Export | None:
        return self._loop.export(digest, scope)

    def _submit(self, request: EngineRequest) -> tuple[Reply, asyncio.Future[RequestStats | None]]:
        reply = self._loop.submit(request)
        ended = self._ended[request.id] = asyncio.get_running_loop().create_future()
        return reply, ended

    def abort(self, request_id: str) -> None:
        self._loop.abort(request_id)

    def _on_step(self, output: StepOutput) -> None:
        if output.residency:
            self._batches += 1
            batch = ResidencyBatch.model_construct(
                epoch=self.name, seq=self._batches, snapshot=False, cleared=False, changes=output.residency
            )
            self._report(self.name, batch)

    def _on_end(self, request_id: str, stats: RequestStats | None) -> None:
        ended = self._ended.pop(request_id)
        if not ended.done():
            ended.set_result(stats)
