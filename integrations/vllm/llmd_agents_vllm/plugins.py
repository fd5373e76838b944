"""What vLLM loads by entry point: `llmd_agents` of `vllm.general_plugins` and of `vllm.endpoint_plugins`.

vLLM loads endpoint plugins only if `VLLM_PLUGINS` names them: `VLLM_PLUGINS=llmd_agents` names both.
"""

from typing import TYPE_CHECKING

from .startup_check import Part, usable

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient


def general() -> None:
    """Runs in every process of vLLM, before anything else of the engine."""
    if usable(Part.ENGINE_CALL):
        from .engine_call import install

        install()


class Endpoint:
    """Adds our routes to vLLM's server."""

    name = "llmd_agents"
    required_tasks = ("generate",)

    def attach_router(self, app: "FastAPI") -> None:
        if usable(Part.ENDPOINT):
            from .endpoint import add_routes

            add_routes(app)

    async def init_state(
        self, engine_client: "EngineClient | None", state: "State", args: "Namespace"
    ) -> None:
        if engine_client is not None and usable(Part.ENDPOINT):
            from .endpoint import AgentRoutes

            by_priority = getattr(args, "scheduling_policy", "fcfs") == "priority"
            state.agent_routes = AgentRoutes(engine_client, by_priority=by_priority)
