"""The graph as an SVG picture."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .layout import layout
from .view import view
from .words import count

if TYPE_CHECKING:
    from .report import Report

WIDTH, HEIGHT = 204, 46
_GAP_X, _GAP_Y, _MARGIN = 44, 18, 8


def drawing(report: Report) -> str:
    """Returns an `svg` element, coloured by the page's own style sheet."""
    drawn = view(report)
    placed = layout(drawn)
    corners = [
        (_MARGIN + column * (WIDTH + _GAP_X), _MARGIN + row * (HEIGHT + _GAP_Y))
        for column, row in placed.places
    ]
    width = 2 * _MARGIN + placed.columns * (WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + placed.rows * (HEIGHT + _GAP_Y) - _GAP_Y
    parts = [
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Graph of {count(len(drawn.nodes), "node")}; the tables below hold the same.">'
    ]
    for one, other in drawn.edges:
        both = drawn.nodes[one].on_path and drawn.nodes[other].on_path
        x1, y1 = corners[one][0] + WIDTH, corners[one][1] + HEIGHT / 2
        x2, y2 = corners[other][0], corners[other][1] + HEIGHT / 2
        bend = max((x2 - x1) / 2, 12)
        parts.append(
            f'<path class="edge{" on" if both else ""}" '
            f'd="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'
        )
    for node, (x, y) in zip(drawn.nodes, corners, strict=True):
        classes = f"node {node.kind}{' on' if node.on_path else ''}{' failed' if node.failed else ''}"
        radius = HEIGHT / 2 if node.kind == "tool" else 7
        back = (
            f'<rect class="back" x="5" y="-5" width="{WIDTH}" height="{HEIGHT}" rx="{radius:g}"/>'
            if node.kind in ("fork", "chain")
            else ""
        )
        parts.append(
            f'<g class="{classes}" transform="translate({x} {y})"><title>{escape(node.title)}: '
            f'{escape(node.detail)}</title>{back}<rect width="{WIDTH}" height="{HEIGHT}" rx="{radius:g}"/>'
            f'<text x="14" y="19">{escape(node.title)}</text>'
            f'<text x="14" y="35" class="detail">{escape(node.detail)}</text></g>'
        )
    parts.append("</svg>")
    if drawn.left_out:
        parts.append(f"<p>{count(drawn.left_out, 'node')} more did not fit.</p>")
    return "".join(parts)
