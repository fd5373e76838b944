"""The router's own metrics, for Prometheus."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmd_agents.runtime import Mode, Runtime

from .record import RecordFile

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class _RuntimeCollector(Collector):
    """Reads the runtime's state when asked, so that nothing is counted twice."""

    def __init__(self, runtime: Runtime, record: RecordFile | None) -> None:
        self._runtime = runtime
        self._record = record

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "up": "1 if the engine answers",
            "running": "requests under way",
            "queued_bytes": "prompt bytes under way that the engine did not hold",
        }
        counters = {
            "requests": "requests sent to the engine",
            "failed": "requests that the engine did not answer",
            "prompt_tokens": "prompt tokens, as the engine counted them",
            "cached_tokens": "prompt tokens that the engine had cached",
        }
        engines = self._runtime.engines
        for name, text in gauges.items():
            gauge = GaugeMetricFamily(f"llmd_router_engine_{name}", text, labels=["engine"])
            for engine, state in engines.items():
                gauge.add_metric([engine], float(getattr(state, name.removesuffix("_bytes"))))
            yield gauge
        others = GaugeMetricFamily(
            "llmd_router_engine_others", "requests there that did not come from here", labels=["engine"]
        )
        usage = GaugeMetricFamily(
            "llmd_router_engine_cache_usage", "share of its blocks that requests hold", labels=["engine"]
        )
        for engine, state in engines.items():
            if state.load is not None:
                others.add_metric([engine], state.others(time.time()).running)
                if state.load.cache_usage is not None:
                    usage.add_metric([engine], state.load.cache_usage)
        yield others
        yield usage
        for name, text in counters.items():
            counter = CounterMetricFamily(f"llmd_router_engine_{name}", text, labels=["engine"])
            for engine, state in engines.items():
                counter.add_metric([engine], getattr(state, name))
            yield counter
        mode = GaugeMetricFamily("llmd_router_mode", "1 for what hints may do now", labels=["mode"])
        for name in Mode:
            mode.add_metric([name], float(name is self._runtime.mode))
        yield mode
        if self._record is not None:
            yield CounterMetricFamily(
                "llmd_router_record_dropped", "lines of the record that were lost", self._record.dropped
            )
        yield GaugeMetricFamily("llmd_router_contexts", "contexts known", self._runtime.context_count)
        yield GaugeMetricFamily("llmd_router_programs", "programs known", self._runtime.program_count)


class RouterMetrics:
    """Counters that the HTTP side keeps."""

    def __init__(self, runtime: Runtime, record: RecordFile | None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_RuntimeCollector(runtime, record))
        self.hints = Counter(
            "llmd_router_hints", "calls by what became of their hints", ["result"], registry=self._registry
        )
        self.responses = Counter(
            "llmd_router_responses", "responses by HTTP status", ["status"], registry=self._registry
        )
        self.failovers = Counter(
            "llmd_router_failovers", "calls moved to another engine", registry=self._registry
        )
        self.events = Counter(
            "llmd_router_events", "lifecycle events received", ["result"], registry=self._registry
        )
        self.directives = Counter(
            "llmd_router_directives",
            "directives by what became of them",
            ["engine", "type", "outcome"],
            registry=self._registry,
        )
        self.directives_dropped = Counter(
            "llmd_router_directives_dropped",
            "directives that a full queue had no room for",
            ["engine"],
            registry=self._registry,
        )
        self.warm_ups = Counter(
            "llmd_router_warm_ups",
            "warm-up requests by what became of them",
            ["engine", "outcome"],
            registry=self._registry,
        )
        self.decision = Histogram(
            "llmd_router_decision_seconds",
            "time to decide on an engine",
            registry=self._registry,
            buckets=(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 1e-1),
        )

    def render(self) -> bytes:
        return generate_latest(self._registry)
