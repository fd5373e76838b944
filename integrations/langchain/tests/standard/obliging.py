"""A scripted model that does what a request asks for: it calls tools, and answers in the form that is wanted.

Embedded engines say something of the right length. LangChain's tests of tools and of structured output look
at what is said, so they need this one, on the recording server.
"""

import re
from collections.abc import Mapping
from typing import Any

from llmd_agents.testing import RecordedRequest, Reply, ToolCall, Usage

USAGE = Usage(prompt=120, completion=30, cached=64, reasoning=10)


def oblige(request: RecordedRequest) -> Reply:
    """Answers with what was said, in the form that the request asks for."""
    body, said = request.json, request.last_text
    tool = _wanted(body)
    if tool is not None:
        return Reply(calls=[ToolCall(tool["name"], _following(tool["parameters"], said))], usage=USAGE)
    form = body.get("response_format", {"type": "text"})
    match form["type"]:
        case "json_schema":
            return Reply(_following(form["json_schema"]["schema"], said), usage=USAGE)
        case "json_object":
            keys = re.findall(r"'(\w+)'", said)  # such as the prompt names
            return Reply(dict.fromkeys(keys, said), usage=USAGE)
    return Reply(_until(f"I hear you: {said}", body.get("stop") or ()), usage=USAGE)


def _wanted(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the function to call: that which is named, or else the first; none once there is a result."""
    functions: list[Mapping[str, Any]] = [tool["function"] for tool in body.get("tools", ())]
    match body.get("tool_choice", "auto"):
        case {"function": {"name": name}}:
            return next(function for function in functions if function["name"] == name)
        case "none":
            return None
        case "auto" if body["messages"][-1]["role"] == "tool":
            return None
    return functions[0] if functions else None


def _following(schema: Mapping[str, Any], said: str) -> Any:
    """Returns a value as a JSON schema wants it, of what was said."""
    match schema:
        case {"anyOf": [first, *_]}:
            return _following(first, said)
        case {"type": "string"}:
            return said
        case {"type": "integer"}:
            return int(next(iter(re.findall(r"\d+", said)), 0))
        case {"type": "object", "properties": parts}:
            return {name: _following(part, said) for name, part in parts.items()}
    raise ValueError(f"no schema that is understood: {schema}")


def _until(text: str, stops: list[str] | tuple[str, ...]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
