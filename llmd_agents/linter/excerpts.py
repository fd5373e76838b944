"""Short excerpts around a divergence, as one printable line each."""

from .divergence import Excerpt

_LEAD = 32
_REST = 44


def excerpt_at(before: str, at_before: int, after: str, at_after: int) -> Excerpt:
    """Shows both texts from a little before their first differing characters on.

    Args:
        at_before: index of the first differing character in `before`; as `at_after` in `after`.
    """
    lead = _printable(after[max(at_after - _LEAD, 0) : at_after])
    if at_after > _LEAD:
        lead = "…" + lead
    return Excerpt(lead + _rest(before, at_before), lead + _rest(after, at_after), len(lead))


def _rest(text: str, at: int) -> str:
    if at >= len(text):
        return "(end)" if at else "(nothing)"
    shown = _printable(text[at : at + _REST])
    return shown + "…" if len(text) > at + _REST else shown


def _printable(text: str) -> str:
    # Escaped, a line break or a control character of a prompt cannot play with the terminal.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )
