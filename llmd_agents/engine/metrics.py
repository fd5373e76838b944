"""The engine's metrics under vLLM's names; all times are modelled."""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .core import EngineCore
from .request import RequestStats

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_TOKEN_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_REQUEST_BUCKETS: Final = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20),
    *(30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680),
)


class _CoreCollector(Collector):
    """Reads the core's own counters when they are asked for, which costs its steps nothing."""

    def __init__(self, core: EngineCore, model_name: str, now: Callable[[], float]) -> None:
        self._core = core
        self._model_name = model_name
        self._now = now

    def collect(self) -> Iterator[Metric]:
        core, totals = self._core, self._core.totals
        yield self._gauge("num_requests_running", "Requests that hold blocks.", core.num_running)
        yield self._gauge("num_requests_waiting", "Requests that wait to be admitted.", core.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "Blocks held by requests, 0 to 1.", core.cache_usage)
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up.", totals.prefix_cache_queries)
        yield self._counter("prefix_cache_hits", "Prompt tokens found cached.", totals.prefix_cache_hits)
        yield self._counter("prompt_tokens", "Prompt tokens of requests.", totals.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", totals.generation_tokens)
        yield self._counter("num_preemptions", "Preemptions of requests.", core.num_preemptions)
        by_source = CounterMetricFamily(
            "vllm:prompt_tokens_cached_by_source",
            "Prompt tokens found cached, by where.",
            labels=("model_name", "source"),
        )
        for source, tokens in totals.cached_by_source.items():
            by_source.add_metric((self._model_name, source), tokens)
        yield by_source
        yield from self._agent_metrics()

    def _agent_metrics(self) -> Iterator[Metric]:
        """Yields what vLLM has no name for."""
        core, name = self._core, self._model_name
        kv = core.kv("metrics", self._now())
        used = GaugeMetricFamily(
            "llmd_engine_tier_tokens", "Tokens that a tier holds.", labels=("model_name", "tier")
        )
        for tier, tokens in kv.used.items():
            used.add_metric((name, tier), tokens)
        yield used
        retained = GaugeMetricFamily(
            "llmd_engine_retained_tokens", "Tokens under an estimate.", labels=("model_name",)
        )
        retained.add_metric((name,), sum(kv.retained.values()))
        yield retained
        outcomes = CounterMetricFamily(
            "llmd_engine_directives",
            "Directives, by what became of them.",
            labels=("model_name", "type", "outcome"),
        )
        for (type_, outcome), count in core.directive_outcomes.items():
            outcomes.add_metric((name, type_, outcome), count)
        yield outcomes
        read = CounterMetricFamily(
            "llmd_engine_transferred_bytes",
            "Bytes read from lower tiers and peers.",
            labels=("model_name", "source"),
        )
        for source, size in core.transferred_bytes.items():
            read.add_metric((name, source), size)
        yield read

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=("model_name",))
        family.add_metric((self._model_name,), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=("model_name",))
        family.add_metric((self._model_name,), value)
        return family


class EngineMetrics:
    """Metrics of one engine, in a registry of its own.

    The histograms take a request in when it has finished. `vllm:time_per_output_token_seconds` counts a
    request once, with the mean over its tokens after the first.
    """

    def __init__(self, core: EngineCore, model_name: str, now: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_CoreCollector(core, model_name, now))
        self._ended = Counter(
            "vllm:request_success",
            "Requests ended, by reason.",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._model_name = model_name
        self._ttft = self._histogram("time_to_first_token_seconds", _TTFT_BUCKETS)
        self._e2e = self._histogram("e2e_request_latency_seconds", _REQUEST_BUCKETS)
        self._queue = self._histogram("request_queue_time_seconds", _REQUEST_BUCKETS)
        self._per_token = self._histogram("time_per_output_token_seconds", _TOKEN_BUCKETS)
        for reason in ("stop", "length", "abort"):
            self._ended.labels(model_name, reason)

    def finished(self, stats: RequestStats, reason: str) -> None:
        self._ended.labels(self._model_name, reason).inc()
        self._ttft.observe(stats.ttft_s)
        self._e2e.observe(stats.e2e_s)
        self._queue.observe(stats.queue_s)
        if stats.output_tokens > 1:
            decode_s = stats.finish_s - stats.first_token_s
            self._per_token.observe(decode_s / (stats.output_tokens - 1))

    def aborted(self) -> None:
        self._ended.labels(self._model_name, "abort").inc()

    def text(self) -> bytes:
        """Returns all metrics in the text format that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(
            f"vllm:{name}",
            f"Modelled: {name.replace('_', ' ')}.",
            ("model_name",),
            buckets=buckets,
            registry=self._registry,
        )
        return family.labels(self._model_name)
