"""vLLM's own counters, from its `/metrics`."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

_COUNTERS: Final = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prefix_cache_queries_total": "device_queries",
    "vllm:prefix_cache_hits_total": "device_hits",
    "vllm:external_prefix_cache_queries_total": "external_queries",
    "vllm:external_prefix_cache_hits_total": "external_hits",
    "vllm:request_success_total": "requests",
    "vllm:num_preemptions_total": "preemptions",
}

_BY_SOURCE: Final = "vllm:prompt_tokens_cached_by_source_total"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Counts since the engine started, in tokens if not said otherwise; `later - earlier` counts between.

    Attributes:
        device, host, p2p, disk: prompt tokens that were not computed, by where they came from.
        device_queries, device_hits: looked for and found in the device's prefix cache.
        external_queries, external_hits: looked for and found through a connector.
        requests: how many were answered.
        preemptions: how often a running request lost its blocks.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    device: int = 0
    host: int = 0
    p2p: int = 0
    disk: int = 0
    device_queries: int = 0
    device_hits: int = 0
    external_queries: int = 0
    external_hits: int = 0
    requests: int = 0
    preemptions: int = 0

    def __sub__(self, earlier: "Counters") -> "Counters":
        return Counters(**{name: value - getattr(earlier, name) for name, value in vars(self).items()})

    @property
    def cached(self) -> int:
        """Prompt tokens that were not computed, wherever they came from."""
        return self.device + self.host + self.p2p + self.disk


def scrape(url: str) -> Counters:
    """Returns the counters of the engine at `url` (without `/metrics`)."""
    return parse(httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text)


def parse(text: str) -> Counters:
    """Returns the counters of a text in Prometheus' format, summed over vLLM's engines and models."""
    totals: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.labels.get("source") if sample.name == _BY_SOURCE else _COUNTERS.get(sample.name)
            if name is not None:
                totals[name] += int(sample.value)
    return Counters(**totals)
