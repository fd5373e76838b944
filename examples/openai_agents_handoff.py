"""Handoffs on the OpenAI Agents SDK: triage hands over to billing, which hands over to a writer.

triage → billing → 2 tools side by side → billing → writer: 4 steps on one branch.

pip install 'llmd-agents[openai-agents]'
llmd-agents engine --port 8001 --scripts examples/openai_agents_handoff.toml &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/openai_agents_handoff.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys

from agents import Agent, ModelSettings, RunConfig, Runner, function_tool, set_trace_processors
from llmd_agents_openai_agents import install, model_provider
from openai import AsyncOpenAI


@function_tool
async def find_invoice(number: str) -> str:
    """Returns what an invoice says."""
    await asyncio.sleep(0.2)
    return f"Invoice {number}: 80 euros, due on the 1st."


@function_tool
async def list_payments(customer: str) -> str:
    """Returns a customer's latest payments."""
    await asyncio.sleep(0.1)
    return f"Customer {customer}: 80 euros on the 3rd, 80 euros on the 4th."


def script(agent: str) -> ModelSettings:
    """The embedded engine replies by a script; other servers ignore the header."""
    return ModelSettings(extra_headers={"x-llmd-script": f"openai_agents_handoff/{agent}"})


writer = Agent[None](
    "writer",
    instructions="Write a short, friendly letter to the customer.",
    model_settings=script("writer"),
)
billing = Agent[None](
    "billing",
    instructions="Find out what happened, with both tools at once. Then hand over to the writer.",
    tools=[find_invoice, list_payments],
    handoffs=[writer],
    model_settings=script("billing"),
)
triage = Agent[None](
    "triage",
    instructions="Hand over to whoever knows about the question.",
    handoffs=[billing],
    model_settings=script("triage"),
)


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    set_trace_processors([])  # so that nothing is sent to OpenAI
    install()
    async with AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none")) as client:
        options = RunConfig(
            model=os.environ.get("MODEL", "demo"),
            model_provider=model_provider(client, use_responses=False),
            workflow_name="invoice-question",
        )
        result = await Runner.run(triage, "Was I charged twice for invoice 2024-117?", run_config=options)
    print(f"{result.last_agent.name}: {result.final_output}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
