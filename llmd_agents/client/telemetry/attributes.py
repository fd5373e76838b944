"""Names and values of span attributes: names, digests, sizes and counts, never contents.

`gen_ai.*`, `server.*` and `error.type` are OpenTelemetry's, of its conventions for generative AI (in
development); they are spelled out here, for its package moves them. `llmd.*` are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord

Value: TypeAlias = "str | int | float | bool | Sequence[str] | Sequence[int]"
Attributes: TypeAlias = dict[str, Value]

NAMES_MAX = 32
"""Most hints that an ack's attributes name."""

_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.mistral.ai": "mistral_ai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}


def program_attributes(history: History) -> Attributes:
    attributes: Attributes = {"gen_ai.operation.name": "invoke_workflow", "llmd.program.id": history.program}
    if history.name:
        attributes["gen_ai.workflow.name"] = history.name
    return attributes


def branch_attributes(history: History, branch: BranchRecord, fork: ForkRecord | None) -> Attributes:
    attributes: Attributes = {"llmd.program.id": history.program, "llmd.branch": branch.branch}
    if branch.parents:
        attributes["llmd.parents"] = branch.parents
    if branch.fork is not None:
        attributes |= {"llmd.fork.id": branch.fork, "llmd.fork.index": branch.index}
    if fork is not None:
        attributes |= {
            "llmd.fork.branch": fork.branch,
            "llmd.fork.width": fork.width,
            "llmd.fork.join": str(fork.join),
        }
        if fork.name:
            attributes["llmd.fork.name"] = fork.name
    return attributes


def agent_attributes(history: History, step: StepRecord) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": step.agent or "",
        "gen_ai.conversation.id": conversation(history, step.branch),
        "gen_ai.provider.name": provider(step.server),
        "llmd.program.id": history.program,
        "llmd.branch": step.branch,
    }
    if step.model:
        attributes["gen_ai.request.model"] = step.model
    return attributes


def tool_attributes(history: History, tool: ToolRecord) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool.tool,
        "gen_ai.tool.call.id": tool.call,
        "llmd.program.id": history.program,
        "llmd.branch": tool.branch,
    }
    if tool.asked_by is not None:
        attributes["llmd.tool.asked_by"] = tool.asked_by
    if tool.expected is not None:
        attributes["llmd.tool.expected_seconds"] = tool.expected
    return attributes


def operation(step: StepRecord) -> str:
    return "text_completion" if step.route == "completions" else "chat"


def step_attributes(history: History, step: StepRecord) -> Attributes:
    """Returns what is known of a step that has ended."""
    attributes: Attributes = {
        "gen_ai.operation.name": operation(step),
        "gen_ai.provider.name": provider(step.server),
        "gen_ai.conversation.id": conversation(history, step.branch),
        "llmd.program.id": history.program,
        "llmd.step.id": step.step,
        "llmd.branch": step.branch,
        "llmd.parents": step.parents,
        "llmd.prompt.bytes": step.prompt_bytes,
        "llmd.prompt.new_bytes": step.new_bytes,
    }
    known: dict[str, Value | None] = {
        "gen_ai.request.model": step.model,
        "gen_ai.workflow.name": history.name,
        "gen_ai.agent.name": step.agent,
        "gen_ai.usage.input_tokens": step.input_tokens,
        "gen_ai.usage.output_tokens": step.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": step.cached_tokens,
        "http.response.status_code": step.status,
        "llmd.step.kind": step.kind,
        "llmd.step.join": None if step.join is None else str(step.join),
    }
    attributes |= {name: value for name, value in known.items() if value is not None}
    try:
        server = urlsplit(step.server)
        port = server.port or {"http": 80, "https": 443}.get(server.scheme)
    except ValueError:
        pass
    else:
        attributes |= {"server.address": server.hostname or ""}
        if port is not None:
            attributes["server.port"] = port
    if step.fork is not None:
        attributes |= {
            "llmd.fork.id": step.fork.id,
            "llmd.fork.index": step.fork.index,
            "llmd.fork.width": step.fork.width,
        }
    if step.loop is not None:
        attributes |= {"llmd.loop.id": step.loop.id, "llmd.loop.iteration": step.loop.iteration}
        if step.loop.limit is not None:
            attributes["llmd.loop.limit"] = step.loop.limit
    if step.attempts > 1:
        attributes["llmd.step.attempts"] = step.attempts
    if step.superseded:
        attributes["llmd.prompt.superseded"] = True
    return attributes | _context(step) | _ack(step)


def conversation(history: History, branch: str) -> str:
    return f"{history.program}:{branch}"


def provider(server: str) -> str:
    """Returns OpenTelemetry's name of who serves a base URL; for others the protocol's, `openai`."""
    try:
        host = urlsplit(server).hostname or ""
    except ValueError:
        host = ""
    if host.endswith(".openai.azure.com"):
        return "azure.ai.openai"
    return _PROVIDERS.get(host, "openai")


def _context(step: StepRecord) -> Attributes:
    attributes: Attributes = {}
    if step.extends is not None:
        attributes["llmd.context.extends"] = step.extends.hex()
    if step.context:
        attributes["llmd.context.digests"] = [digest.hex() for digest, _ in step.context]
        attributes["llmd.context.sizes"] = [size for _, size in step.context]
    return attributes


def _ack(step: StepRecord) -> Attributes:
    if step.ack is None:
        return {}
    attributes: Attributes = {"llmd.ack.accepted": [_name(name) for name in step.ack.accepted[:NAMES_MAX]]}
    for key, rejections in (("clipped", step.ack.clipped), ("rejected", step.ack.rejected)):
        if rejections:
            attributes[f"llmd.ack.{key}"] = [_name(one.hint) for one in rejections[:NAMES_MAX]]
    if step.ack.resync:
        attributes["llmd.ack.resync"] = True
    return attributes


def _name(text: str) -> str:
    """A server may say anything."""
    return text[:64]
