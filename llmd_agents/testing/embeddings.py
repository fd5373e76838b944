"""Made-up embeddings: unit vectors that depend on the text alone."""

import base64
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from xxhash import xxh3_64_intdigest

DIMENSIONS = 8
_DIMENSIONS_MAX = 4096


def embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response to a body of `/v1/embeddings`.

    Raises:
        ValueError: if it has no `input` that can be embedded, or no reasonable `dimensions`.
    """
    asked = body.get("input")
    inputs = asked if isinstance(asked, list) and not all(isinstance(one, int) for one in asked) else [asked]
    if not asked or not all(isinstance(one, str | list) for one in inputs):
        raise ValueError("input must be a text, an array of texts, or arrays of tokens")
    dimensions = body.get("dimensions", DIMENSIONS)
    if not isinstance(dimensions, int) or not 0 < dimensions <= _DIMENSIONS_MAX:
        raise ValueError(f"dimensions must be from 1 to {_DIMENSIONS_MAX}")
    texts = [json.dumps(one) for one in inputs]
    tokens = sum(-(-len(text) // 4) for text in texts)
    encode = _base64 if body.get("encoding_format") == "base64" else list
    return {
        "object": "list",
        "model": str(body.get("model", "")),
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(_vector(text, dimensions))}
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(text: str, dimensions: int) -> list[float]:
    data = text.encode()
    raw = [xxh3_64_intdigest(data, seed) / 2**63 - 1 for seed in range(dimensions)]
    length = math.hypot(*raw) or 1.0
    return [value / length for value in raw]


def _base64(vector: list[float]) -> str:
    """Returns the vector as OpenAI encodes it: 32-bit floats, the least significant byte first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
