"""Figures in Prometheus's form. The one user of prometheus_client."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from backend.core.histogram import Histogram
from backend.core.reports import EngineFigures
from backend.metrics.catalogue import CALL_LABELS, CALLS, FIGURES, INFO, MODEL_INFO, Metric

Figures = Callable[[], EngineFigures]
Calls = Callable[[], Mapping[tuple[str, str], int]]


class Exposition(Collector):
    """What a scrape gets. Any thread; each scrape asks anew, and nothing is kept between two."""

    def __init__(self, figures: Figures, calls: Calls) -> None:
        """Both are asked on the thread that answers the scrape."""
        self._figures = figures
        self._calls = calls
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and text, in the form that the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def collect(self) -> Iterator[Family]:
        """One family for each metric that there is a figure of."""
        figures = self._figures()
        for name, value in figures.numbers.items():
            yield _family(FIGURES[name], (), [((), value)])
        for name, counts in figures.counts.items():
            metric = FIGURES[name]
            yield _family(metric, (metric.label,), [((word,), count) for word, count in counts.items()])
        for name, histogram in figures.histograms.items():
            yield _histogram(FIGURES[name], histogram)
        yield _family(CALLS, CALL_LABELS, list(self._calls().items()))
        yield _words(INFO, figures.worker)
        if figures.model:
            yield _words(MODEL_INFO, figures.model)


def _family(metric: Metric, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.exposed, metric.help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _words(metric: Metric, words: Mapping[str, str]) -> Family:
    """As `*_info` metrics are: the words are labels, the value is 1."""
    return _family(metric, tuple(words), [(tuple(words.values()), 1)])


def _histogram(metric: Metric, histogram: Histogram) -> Family:
    counts, so_far = histogram.counts, 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), counts, strict=True):
        so_far += count
        buckets.append((floatToGoString(bound), so_far))
    family = HistogramMetricFamily(metric.exposed, metric.help)
    family.add_metric([], buckets, histogram.total)
    return family
