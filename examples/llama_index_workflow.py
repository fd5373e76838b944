"""A LlamaIndex workflow: it plans, drafts sections side by side, checks each, and puts them together.

outline → 3 × (draft → check) → edit: 8 steps and one fork.

pip install 'llmd-agents[llama-index]' llama-index-llms-openai
llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/llama_index_workflow.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys

import llmd_agents_llama_index
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai import OpenAI
from llmd_agents_llama_index import hooked

SECTIONS = ("how they work", "who keeps them", "why they go dark")


class Section(Event):
    title: str
    outline: str


class Draft(Event):
    title: str
    text: str


class Checked(Event):
    text: str


class Article(Workflow):
    """An article on a subject, section by section."""

    def __init__(self, llm: OpenAI) -> None:
        super().__init__(timeout=120)
        self.llm = llm

    async def ask(self, *texts: str) -> str:
        return (await self.llm.acomplete("\n\n".join(texts))).text

    @step
    async def outline(self, ctx: Context, ev: StartEvent) -> Section | None:
        outline = await self.ask(f"Outline an article on {ev.subject}.")
        for title in SECTIONS:
            ctx.send_event(Section(title=title, outline=outline))
        return None

    @step
    async def draft(self, ev: Section) -> Draft:
        text = await self.ask(ev.outline, f"Draft the section on {ev.title}.")
        return Draft(title=ev.title, text=text)

    @step
    async def check(self, ev: Draft) -> Checked:
        return Checked(text=await self.ask(ev.text, f"Correct what is wrong about {ev.title}."))

    @step
    async def edit(self, ctx: Context, ev: Checked) -> StopEvent | None:
        sections = ctx.collect_events(ev, [Checked] * len(SECTIONS))
        if sections is None:
            return None
        texts = [section.text for section in sections]
        return StopEvent(result=await self.ask(*texts, "Make one article of these sections."))


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    llmd_agents_llama_index.install()
    llm = OpenAI(
        model=os.environ.get("MODEL", "gpt-4o-mini"),
        api_base=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        **hooked(),
    )
    article = await Article(llm).run(subject="lighthouses")
    print(f"{len(SECTIONS)} sections: {article[:60]}…")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
