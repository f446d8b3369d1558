"""Figures in Prometheus's form."""

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from backend.core.histogram import Histogram
from backend.core.reports import EngineFigures
from backend.metrics.catalogue import FIGURES, METRICS, PREFIX
from backend.metrics.exposition import Exposition
from tests.metrics.scraping import Scrape


def figures() -> EngineFigures:
    latencies = Histogram((0.5, 1.0))
    for value in (0.2, 0.5, 3.0):
        latencies.observe(value)
    return EngineFigures(
        worker={"version": "1"},
        model={"model_name": 'a "model"\n\\'},
        numbers={"prompt_tokens": 7, "num_requests_waiting": 2},
        counts={"request_success": {"stop": 3, "length": 1}},
        histograms={"time_to_first_token_seconds": latencies},
    )


def exposition() -> Exposition:
    return Exposition(figures, lambda: {("Backend.Predict", "OK"): 4, ("none", "UNAUTHENTICATED"): 1})


def test_a_scrape_has_each_figure_under_its_name_and_kind() -> None:
    content_type, body = exposition().scrape("")
    assert content_type.startswith("text/plain; version=0.0.4")
    told = Scrape.of(body.decode())
    assert (told["prompt_tokens_total"], told["num_requests_waiting"]) == (7, 2)
    assert told.kinds[f"{PREFIX}prompt_tokens"] == "counter"
    assert told.by("request_success_total", "finished_reason") == {"stop": 3, "length": 1}
    assert told.by("calls_total", "code") == {"OK": 4, "UNAUTHENTICATED": 1}
    assert told.by("model_info", "model_name") == {'a "model"\n\\': 1}


def test_a_histograms_buckets_add_up_to_its_count() -> None:
    told = Scrape.of(exposition().scrape("")[1].decode())
    assert told.by("time_to_first_token_seconds_bucket", "le") == {"0.5": 2, "1.0": 2, "+Inf": 3}
    assert told["time_to_first_token_seconds_count"] == 3
    assert told["time_to_first_token_seconds_sum"] == pytest.approx(3.7)


def test_whoever_asks_for_openmetrics_gets_that() -> None:
    content_type, body = exposition().scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    assert f"{PREFIX}prompt_tokens" in names


def test_a_figure_without_a_row_in_the_catalogue_is_an_error() -> None:
    unknown = Exposition(lambda: EngineFigures(worker={}, numbers={"secret": 1}), dict)
    with pytest.raises(KeyError, match="secret"):
        unknown.scrape("")


def test_names_are_told_apart_and_say_what_they_count() -> None:
    assert len({metric.exposed for metric in METRICS}) == len(METRICS)
    assert all(metric.help.endswith(".") for metric in METRICS)
    assert all(metric.kind == "counter" for metric in FIGURES.values() if metric.label)
