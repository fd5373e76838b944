"""vLLM's own counters, from its `/metrics`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        cached_by_source: prompt tokens that were not computed, by where they came from: `device`, `host`,
            `disk`, `p2p` or `external_unspecified`, which a connector that does not say counts as. Only
            those that are not 0.
        device_queries, device_hits: looked for and found in the device's prefix cache.
        external_queries, external_hits: looked for and found through a connector.
        requests: how many were answered.
        preemptions: how often a running request lost its blocks.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_by_source: Mapping[str, int] = field(default_factory=dict)
    device_queries: int = 0
    device_hits: int = 0
    external_queries: int = 0
    external_hits: int = 0
    requests: int = 0
    preemptions: int = 0

    def __sub__(self, earlier: "Counters") -> "Counters":
        names = _COUNTERS.values()
        before = Counter(earlier.cached_by_source)
        sources = {name: count - before[name] for name, count in self.cached_by_source.items()}
        return Counters(
            cached_by_source={name: count for name, count in sources.items() if count},
            **{name: getattr(self, name) - getattr(earlier, name) for name in names},
        )

    @property
    def cached(self) -> int:
        """Prompt tokens that were not computed, wherever they came from."""
        return sum(self.cached_by_source.values())


def scrape(url: str) -> Counters:
    """Returns the counters of the engine at `url` (without `/metrics`)."""
    return parse(httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text)


def parse(text: str) -> Counters:
    """Returns the counters of a text in Prometheus' format, summed over vLLM's engines and models."""
    totals: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _BY_SOURCE and sample.value:
                sources[sample.labels["source"]] += int(sample.value)
            elif (name := _COUNTERS.get(sample.name)) is not None:
                totals[name] += int(sample.value)
    return Counters(cached_by_source=dict(sources), **totals)
