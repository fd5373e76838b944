"""Numbers as people read them."""

from __future__ import annotations


def seconds(value: float) -> str:
    """Returns `340 ms`, `2.41 s`, `41.2 s`, `3 min 20 s` or `2 h 5 min`."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 9.995:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.0995 or not value else f"${value:.2g}"


def percent(part: float, whole: float) -> str:
    """Returns `62 %`, or nothing where there is no whole."""
    return f"{part / whole:.0%}".replace("%", " %") if whole else ""


def count(number: int, noun: str) -> str:
    """Returns `1 step`, `2 steps`."""
    plural = f"{noun}es" if noun.endswith(("ch", "s")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
