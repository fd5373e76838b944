"""Counters as the servers themselves publish them."""

from dataclasses import asdict, dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Totals of one engine since it started, under vLLM's definitions."""

    requests: int
    prompt_tokens: int
    cached_tokens: int

    def __sub__(self, earlier: "EngineCounters") -> "EngineCounters":
        mine, theirs = asdict(self), asdict(earlier)
        return EngineCounters(**{name: mine[name] - theirs[name] for name in mine})


_METRICS = {
    "requests": "vllm:request_success_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "cached_tokens": "vllm:prompt_tokens_cached_by_source_total",
}


async def engine_counters(http: httpx.AsyncClient, url: str) -> EngineCounters:
    """Reads `/metrics` of a vLLM-compatible engine.

    Raises:
        httpx.HTTPError: if it does not answer.
    """
    response = await http.get(f"{url}/metrics")
    response.raise_for_status()
    totals = dict.fromkeys(_METRICS, 0)
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            for name, metric in _METRICS.items():
                if sample.name == metric:
                    totals[name] += int(sample.value)
    return EngineCounters(**totals)
