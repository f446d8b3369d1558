"""What the operator's port and the log tell of a load, against what the clients of that load counted."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, prompt, running, stream
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.metrics.scraping import Scrape, scrape
from tests.process.spawned import SCRIPTED, spawned
from tests.test_operations_page import DASHBOARD

CLIENTS = 8
ROWS, QUEUE = 2, 3
SECRETS = ("sesame", "tenant-a", "talk-1", "kept-name")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One whose log is JSON and whose queue is short."""
    with Worker("--metrics-port", "auto", "--log-format", "json", "--isolation", "balanced") as worker:
        worker.must_load(TINY_CHAT, f"max_rows:{ROWS}", f"queue_size:{QUEUE}")
        yield worker


@pytest.fixture(scope="module")
def url(worker: Worker) -> str:
    return worker.log.wait_for(r'"event": "metrics", "url": "([^"]+)"')[1]


def asked(index: int) -> pb.PredictOptions:
    """Long and short, alike and not, sampled and greedy, and some that are wrong."""
    metadata = {"cache_salt": SECRETS[1], "conversation_id": SECRETS[2]}
    match index % 6:
        case 0:
            return chat(f"Tell me a story about number {index % 4} and {SECRETS[0]}.", 24, Metadata=metadata)
        case 1:
            return prompt("Once upon a time", 12, Temperature=1.0, Seed=index, IgnoreEOS=True, Metadata=metadata)
        case 2:
            return chat("Count from one to five.", 40)
        case 3:
            return prompt("The cat sat on the mat. " * 20, 8, StopPrompts=["e"])
        case 4:
            return prompt("Once upon a time", Temperature=1000.0)
        case _:
            return prompt("A long list of words " * 60, 6, PromptCachePath=SECRETS[3], CorrelationId=f"keep-{index}")


def line_of(worker: Worker, answer: Answer) -> dict[str, Any]:
    """The log's line about a request, which its reader may have yet to read."""
    return json.loads(worker.log.wait_for(rf'.*"request_ended".*"{answer.trailing["x-request-id"]}".*')[0])


def load(worker: Worker, requests: int) -> list[Answer]:
    """Many clients at once, by both methods."""

    def ask(index: int) -> Answer:
        by = predict if index % 2 else stream
        return by(worker.stub, asked(index // 2))

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(ask, range(requests)))


@pytest.fixture(scope="module")
def counted(worker: Worker, url: str) -> tuple[list[Answer], Scrape, list[Scrape]]:
    """The answers, a scrape once all is at rest, and those that were made meanwhile."""
    meanwhile: list[Scrape] = []
    over = threading.Event()

    def scrapes() -> None:
        while not over.wait(0.05):
            meanwhile.append(scrape(url))

    collector = threading.Thread(target=scrapes)
    collector.start()
    try:
        answers = load(worker, 42)
        while grpc.StatusCode.RESOURCE_EXHAUSTED not in {answer.code for answer in answers}:
            answers += load(worker, 42)  # on a busy machine they may not have met
    finally:
        over.set()
        collector.join(60)
    worker.rest()
    # A client may have its end before it is counted.
    wait_until(lambda: sum(calls(scrape(url)).values()) == len(answers), "all are counted")
    return answers, scrape(url), meanwhile


def calls(told: Scrape) -> Counter[str]:
    """Requests that have ended, by their codes."""
    ended = Counter[str]()
    for labels, count in told.samples["mlx_worker_calls_total"].items():
        if dict(labels)["method"] in ("Backend.Predict", "Backend.PredictStream"):
            ended[dict(labels)["code"]] += int(count)
    return ended


def test_totals_are_those_that_the_clients_counted(counted: tuple[list[Answer], Scrape, list[Scrape]]) -> None:
    answers, told, _ = counted
    good = [answer for answer in answers if answer.code is grpc.StatusCode.OK]
    assert calls(told) == Counter(answer.code.name for answer in answers)
    assert calls(told).keys() == {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    tokens = sum(answer.last.tokens for answer in good)
    assert told["requests_accepted_total"] == len(good)
    assert told["prompt_tokens_total"] == sum(answer.last.prompt_tokens for answer in good)
    assert told["generation_tokens_total"] == tokens
    assert told["prefix_cache_queries_total"] == told["prompt_tokens_total"]
    cached = sum(int(answer.trailing["x-prompt-cache-tokens"]) for answer in good)
    assert told["prefix_cache_hits_total"] == cached > 0
    assert told.by("prefix_cache_lookups_total", "reason") == Counter(
        answer.trailing["x-prompt-cache-reason"].partition(" ")[0] for answer in good
    )
    for name, key in (("draft", "x-drafted-tokens"), ("accepted", "x-accepted-tokens")):
        by_drafter = told.by(f"spec_decode_num_{name}_tokens_total", "drafter")
        assert sum(by_drafter.values()) == sum(int(answer.trailing[key]) for answer in good)
        assert {drafter for drafter, count in by_drafter.items() if count} <= {"ngram", "cache", "grammar"}
    assert told.by("request_success_total", "finished_reason") == Counter(answer.reason for answer in good)
    for name in ("requests_failed_total", "requests_cancelled_total", "num_requests_in_flight", "num_requests_running"):
        assert told[name] == 0
    assert (told["engine_up"], told["model_loaded"], told["model_asleep"]) == (1, 1, 0)


def test_histograms_have_what_the_clients_were_told(counted: tuple[list[Answer], Scrape, list[Scrape]]) -> None:
    answers, told, _ = counted
    good = [answer for answer in answers if answer.code is grpc.StatusCode.OK]

    def has(name: str, values: list[float]) -> None:
        assert told[f"{name}_count"] == len(values), name
        assert told[f"{name}_sum"] == pytest.approx(sum(values), abs=1e-5 * len(values)), name
        for bound, count in told.by(f"{name}_bucket", "le").items():
            sure = sum(value < float(bound) * (1 - 1e-4) for value in values)
            assert sure <= count <= sum(value <= float(bound) * (1 + 1e-4) for value in values), (name, bound)

    has("request_queue_time_seconds", [float(answer.trailing["x-queue-ms"]) / 1e3 for answer in good])
    has("request_prefill_time_seconds", [float(answer.trailing["x-prefill-ms"]) / 1e3 for answer in good])
    has("request_decode_time_seconds", [answer.last.timing_token_generation / 1e3 for answer in good])
    has("request_prompt_tokens", [answer.last.prompt_tokens for answer in good])
    has("request_generation_tokens", [answer.last.tokens for answer in good])
    begun = sum(answer.last.tokens > 0 for answer in good)
    assert told["time_to_first_token_seconds_count"] == begun
    assert told["inter_token_latency_seconds_count"] == told["generation_tokens_total"] - begun
    stages = sum(told[f"request_{stage}_time_seconds_sum"] for stage in ("queue", "prefill", "decode"))
    assert told["e2e_request_latency_seconds_sum"] == pytest.approx(stages)
    first, last = told["time_to_first_token_seconds_sum"], told["e2e_request_latency_seconds_sum"]
    assert 0 < first < last and told["inter_token_latency_seconds_sum"] <= last - first + 1e-6


def test_scrapes_under_load_only_ever_count_up(counted: tuple[list[Answer], Scrape, list[Scrape]]) -> None:
    _, told, meanwhile = counted
    assert len(meanwhile) > 3
    for earlier, later in zip(meanwhile, [*meanwhile[1:], told], strict=True):
        for name, samples in earlier.samples.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert all(value <= later.samples[name][labels] for labels, value in samples.items()), name


def test_the_log_has_one_line_a_request_that_agrees_with_its_client(
    worker: Worker, counted: tuple[list[Answer], Scrape, list[Scrape]]
) -> None:
    for answer in counted[0]:
        line = line_of(worker, answer)
        if answer.code is not grpc.StatusCode.OK:
            assert line["end"] == answer.code.name and line["total_ms"] >= 0
            continue
        assert line["end"] == answer.reason
        assert (line["tokens"], line["prompt_tokens"]) == (answer.last.tokens, answer.last.prompt_tokens)
        assert line["cached_tokens"] == int(answer.trailing["x-prompt-cache-tokens"])
        assert line["cache_reason"] == answer.trailing["x-prompt-cache-reason"]
        for name in ("drafted", "accepted"):
            assert line[f"{name}_tokens"] == int(answer.trailing[f"x-{name}-tokens"])
        assert line["queue_ms"] == pytest.approx(float(answer.trailing["x-queue-ms"]), abs=0.001)
        assert line["queue_ms"] <= line["first_token_ms"] <= line["total_ms"]
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["decode_ms"] * 1e3, rel=0.01)
    events = [json.loads(line)["event"] for line in worker.log.lines]
    assert events.count("request_ended") == len(counted[0])


def test_gauges_are_of_now(worker: Worker, url: str, counted: object) -> None:
    endless = prompt("Once upon a time", 6000, IgnoreEOS=True)

    def told(**gauges: float) -> bool:
        now = scrape(url)
        return all(now[f"num_{name}"] == count for name, count in gauges.items())

    with running(worker.stub, *[endless] * ROWS), running(worker.stub, endless, begun=False):
        wait_until(
            lambda: told(requests_running=ROWS, rows_decoding=ROWS, requests_waiting=1, requests_in_flight=ROWS + 1),
            "rows and the queue",
        )
        now = scrape(url)
        assert 0 < now["kv_live_bytes"] <= now["kv_budget_bytes"] and 0 < now["kv_cache_usage_perc"] <= 1
    wait_until(lambda: told(requests_running=0, requests_waiting=0, requests_in_flight=0), "all gone")


def test_nothing_of_a_client_is_told(worker: Worker, counted: tuple[list[Answer], Scrape, list[Scrape]]) -> None:
    told = "\n".join([str(counted[1].samples), *worker.log.lines])
    assert not [secret for secret in SECRETS if secret in told]
    assert all(len(word) < 40 for word in counted[1].words())
    assert sum(len(samples) for samples in counted[1].samples.values()) < 400


def test_a_client_that_leaves_and_one_whose_time_is_up_are_counted(worker: Worker, url: str) -> None:
    before = scrape(url)
    call = worker.stub.PredictStream(prompt("Once upon a time", 4000, IgnoreEOS=True), timeout=60)
    next(call)
    call.cancel()
    worker.rest()
    endless, late = prompt("Once upon a time", 6000, IgnoreEOS=True), 0
    for seconds in (0.3, 3.0):
        answer, late = stream(worker.stub, endless, seconds=seconds), late + 1
        assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
        if answer.replies:
            break  # else the machine was too busy to begin with it
    worker.rest()

    def both_are_counted() -> bool:
        counted = calls(scrape(url)) - calls(before)
        # What is late on a busy machine may never reach the worker, or be reset by its client first.
        return set(counted) == {"CANCELLED", "DEADLINE_EXCEEDED"} and 2 <= counted.total() <= 1 + late

    wait_until(both_are_counted, "both are counted")
    after = scrape(url)

    def gone(told: Scrape) -> float:
        return told["requests_failed_total"] + told["requests_cancelled_total"]

    accepted = after["requests_accepted_total"] - before["requests_accepted_total"]
    assert gone(after) - gone(before) == accepted and 2 <= accepted <= 1 + late
    assert after["e2e_request_latency_seconds_count"] == before["e2e_request_latency_seconds_count"]


def test_an_unload_takes_nothing_from_the_totals(worker: Worker, url: str) -> None:
    """Neither what was cut nor what was generated since the last scrape, whoever looks first after it."""
    before = scrape(url)
    call = worker.stub.PredictStream(prompt("Once upon a time", 6000, IgnoreEOS=True), timeout=60)
    tokens = [next(call).tokens for _ in range(3)][-1]
    assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
    freed = scrape(url)
    assert freed["model_loaded"] == 0 and "mlx_worker_kv_budget_bytes" not in freed.samples
    with pytest.raises(grpc.RpcError) as cut:
        list(call)
    assert cut.value.code() is grpc.StatusCode.ABORTED
    worker.must_load()
    after = scrape(url)
    for told in (freed, after):
        assert told["requests_cancelled_total"] == before["requests_cancelled_total"] + 1
        assert told["generation_tokens_total"] >= before["generation_tokens_total"] + tokens
        for name, samples in before.samples.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert all(value <= told.samples[name][labels] for labels, value in samples.items()), name


def test_under_strict_nothing_of_the_prompt_cache_is_told(worker: Worker, url: str) -> None:
    before = scrape(url)
    worker.must_load(TINY_CHAT, "isolation:strict")
    answers = [stream(worker.stub, prompt("Once upon a time", 4)) for _ in range(2)]
    worker.rest()
    told = scrape(url)
    for name in ("requests_accepted_total", "e2e_request_latency_seconds_count"):
        assert told[name] == before[name] + len(answers)
    about = {name for name in told.samples if "cache" in name} - {"mlx_worker_kv_cache_usage_perc"}
    assert not about
    hidden = {"cached_tokens", "cache_reason", "drafted_tokens", "accepted_tokens"}
    assert not hidden & line_of(worker, answers[-1]).keys()
    assert not [name for name in answers[-1].trailing if "cache" in name or name.endswith("ed-tokens")]
    assert worker.stub.Free(pb.HealthMessage(), timeout=30).success
    told = scrape(url)
    assert told["model_loaded"] == 0
    # What the loads before it let be told, and nothing of its own.
    for name in ("prefix_cache_queries_total", "prompt_cache_inserts_total", "prompt_cache_disk_waits_ended_total"):
        assert told[name] == before[name]


@pytest.mark.slow
def test_every_metric_of_the_dashboard_is_in_a_scrape_of_a_worker_that_has_a_disk(
    worker: Worker, url: str, tmp_path: Path
) -> None:
    worker.must_load(TINY_CHAT, f"prompt_cache_dir:{tmp_path / 'kv'}")
    assert stream(worker.stub, prompt("Once upon a time", 4)).code is grpc.StatusCode.OK
    worker.rest()
    told = scrape(url).samples
    named = set(re.findall(r"mlx_worker_\w+", DASHBOARD.read_text(encoding="utf-8")))
    assert named and not named - told.keys()
    worker.must_load()


def test_a_port_that_another_worker_has_is_a_warning_and_the_model_is_served(url: str) -> None:
    """As a host has it that starts a process for each model, all of them with one environment."""
    port = url.rsplit(":", 1)[1].partition("/")[0]
    with spawned(SCRIPTED, MLX_WORKER_METRICS_PORT=port) as second, second.client() as backend:
        assert any(f"cannot serve metrics on 127.0.0.1 port {port}: " in line for line in second.log)
        assert backend.Predict(pb.PredictOptions(Prompt="hi"), timeout=30).message == b"Hello"


def test_an_address_that_is_not_of_this_machine_ends_the_process_with_one_sentence() -> None:
    with spawned(SCRIPTED, "--metrics-port", "auto", "--metrics-address", "192.0.2.1", ready=False) as worker:
        code, last = worker.end()
    assert code == 3 and last.startswith("mlx-worker: cannot serve metrics on 192.0.2.1 port 0: ")
