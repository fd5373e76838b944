"""Every dialect against its golden vectors."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from llmd_agents.hints import Hints
from llmd_agents.hints.dialects import DIALECTS, Surroundings, apply_body, apply_headers

VECTORS = Path(__file__).parents[2] / "vectors" / "dialects"
CASES = [
    (path.stem, vector) for path in sorted(VECTORS.glob("*.json")) for vector in json.loads(path.read_text())
]


def test_every_dialect_has_vectors() -> None:
    assert sorted({name for name, _ in CASES}) == sorted(DIALECTS)


@pytest.mark.parametrize(
    ("name", "vector"), CASES, ids=[f"{name}: {vector['name']}" for name, vector in CASES]
)
def test_golden_vectors(name: str, vector: dict[str, Any]) -> None:
    hints = Hints.model_validate_json(json.dumps(vector["hints"]))
    around = Surroundings(**vector.get("around", {}))
    body = vector.get("body", {"model": "m"})
    before = copy.deepcopy(body)
    expected = vector.get("fields", {})

    assert apply_headers([name], hints, around) == vector["headers"]
    assert apply_body([name], hints, body, around) == ({**body, **expected} if expected else None)
    assert body == before
