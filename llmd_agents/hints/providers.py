"""Providers whose own words are spoken to them without being asked for."""

from urllib.parse import urlsplit


def is_openai(base_url: object) -> bool:
    """Returns whether a base URL is OpenAI's own, where its dialect is on by itself."""
    try:
        host = urlsplit(str(base_url)).hostname or ""
    except ValueError:
        return False
    host = host.rstrip(".")
    return host == "api.openai.com" or host.endswith(".api.openai.com")
