"""Writes the bare items of RFC 9651 fields; what cannot be one raises ValueError."""

from base64 import b64encode
from functools import lru_cache
from typing import Final

_INTEGER_MAX: Final = 10**15 - 1
_WHOLE_DIGITS_MAX: Final = 12


@lru_cache(maxsize=1024)
def string(text: str) -> str:
    """Returns a String, or a Display String where the text is not printable ASCII.

    Raises:
        ValueError: if the text has no UTF-8 form (a lone surrogate).
    """
    if not (text.isascii() and text.isprintable()):
        return _display_string(text)
    if '"' in text or "\\" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def integer(number: int) -> str:
    """Raises ValueError beyond 15 digits, and where the number is not whole."""
    if not -_INTEGER_MAX <= number <= _INTEGER_MAX:
        raise ValueError("an integer has more than 15 digits")
    return f"{number:d}"


def decimal(number: float) -> str:
    """Returns a Decimal, rounded to three digits (half to even).

    Raises:
        ValueError: if it is not finite, or has more than 12 digits before its point.
    """
    whole, point, fraction = f"{number:z.3f}".partition(".")
    if not point or len(whole.lstrip("-")) > _WHOLE_DIGITS_MAX:
        raise ValueError("a decimal has more than 12 digits before its point, or is not finite")
    return f"{whole}.{fraction.rstrip('0') or '0'}"


def byte_sequence(data: bytes) -> str:
    return f":{b64encode(data).decode()}:"


def _display_string(text: str) -> str:
    kept = (
        chr(byte) if 0x20 <= byte <= 0x7E and byte not in b'%"' else f"%{byte:02x}" for byte in text.encode()
    )
    return f'%"{"".join(kept)}"'
