"""The graph as a Mermaid flowchart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .view import view

if TYPE_CHECKING:
    from .report import Report

_SHAPES = {
    "step": ('["', '"]'),
    "tool": ('(["', '"])'),
    "fork": ('[["', '"]]'),
    "chain": ('["', '"]'),
}
_PLAIN = frozenset(" -.,:()%/_×·…")


def mermaid(report: Report) -> str:
    drawn = view(report)
    lines = ["flowchart LR"]
    for index, node in enumerate(drawn.nodes):
        opening, closing = _SHAPES[node.kind]
        lines.append(f"  n{index}{opening}{_label(node.title)}<br/>{_label(node.detail)}{closing}")
    lines += [f"  n{one} --> n{other}" for one, other in drawn.edges]
    on_path = [f"n{index}" for index, node in enumerate(drawn.nodes) if node.on_path]
    if on_path:
        lines += ["  classDef path stroke-width:3px", f"  class {','.join(on_path)} path"]
    if drawn.left_out:
        lines.append(f'  more["and {drawn.left_out:,} more"]')
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    """Returns text in which nothing is Mermaid's or HTML's own: other characters become entity codes."""
    return "".join(char if char.isalnum() or char in _PLAIN else f"#{ord(char)};" for char in text)
