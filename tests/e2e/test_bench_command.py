"""`mlx-worker bench` against a real worker, beside it and beside a server that speaks HTTP."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from backend.bench.command import bench
from tests.e2e.terminal import CTRL_C, Ran, Terminal, in_this_process
from tests.e2e.worker import TINY_CHAT, Worker
from tests.tiers import slow

SMALL = ("--requests", "6", "--streams", "3", "--prompt-tokens", "40-60", "--answer-tokens", "8")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker("--progress", "100ms") as worker:
        worker.must_load()
        yield worker


def run(*arguments: str | Path) -> Ran:
    return in_this_process(lambda: bench([*map(str, arguments)], {}))


def figures(ran: Ran, file: Path) -> dict[str, Any]:
    assert ran.code == 0, ran.out + ran.err
    return json.loads(file.read_text())


class OpenAI(BaseHTTPRequestHandler):
    """A server of the other wire: words, streamed as it would."""

    protocol_version = "HTTP/1.1"
    asked: list[dict[str, Any]]
    status = 200
    stall = False
    ends = "with a word"

    def log_message(self, *args: Any) -> None:
        """Not on standard error."""

    def do_GET(self) -> None:
        self._whole(200, {"data": [{"id": "the-model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path}
        type(self).asked.append(asked | {"token": self.headers.get("Authorization")})
        if self.status != 200:
            self._whole(self.status, {"error": "busy"})
            return
        if self.ends == "before it began":
            self._whole(200, {})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.ends == "too soon":
            self._event({"choices": [{"text": "w", "delta": {"content": "w"}}]})
            self._chunk(b"")
            return
        if self.ends == "within a piece":
            self.wfile.write(b"50\r\ndata: {")
            self.close_connection = True
            return
        if self.ends == "without a token":
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
            return
        for _ in range(asked["max_tokens"]):
            self._event({"choices": [{"text": "w", "delta": {"content": "w"}}]})
            time.sleep(30 if self.stall else 0.001)
        usage = {"prompt_tokens": 50, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 10}}
        self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, told: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(told).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        except OSError:  # whoever asked has cut it
            self.close_connection = True

    def _whole(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def other() -> Iterator[tuple[str, type[OpenAI]]]:
    """Its URL, and what it was asked."""
    handler = type("Handler", (OpenAI,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join(60)


@pytest.mark.slow
def test_a_plan_is_run_to_its_end_and_its_shared_beginning_comes_from_the_cache(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ran = run(*SMALL, "--shared-share", "1", "--shared-tokens", "32", "--addr", worker.address, "--json", file)
    told = figures(ran, file)
    [server] = told["servers"]
    assert (server["requests"], server["errors"], server["cut"]) == (6, {}, 0)
    assert server["tokens"] == 48 and server["tokens_a_second"] > 0
    assert 0.2 < server["cached_share"] < 0.9
    assert 40 * 6 * 0.7 < server["prompt_tokens"] < 80 * 6
    assert 0 < server["first"]["p50"] <= server["whole"]["p50"] and server["gap"]["p99"] > 0
    assert "tokens/s over time" in ran.out and "│█" in ran.out
    # Nothing of a run is of use to the next, unless that is asked for.
    again = figures(run(*SMALL, "--addr", worker.address, "--json", file), file)
    assert again["servers"][0]["cached_share"] < 0.05
    kept = ("--keep-cache", "--addr", worker.address, "--json", file)
    figures(run(*SMALL, *kept), file)
    assert figures(run(*SMALL, *kept), file)["servers"][0]["cached_share"] > 0.8


@pytest.mark.slow
def test_two_servers_have_their_turns_and_the_ratio_is_beside_them(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ran = run(*SMALL, "--rounds", "2", "--addr", worker.address, "--beside", worker.address, "--json", file)
    told = figures(ran, file)
    assert [server["name"] for server in told["servers"]] == ["worker", "beside"]
    assert [server["tokens"] for server in told["servers"]] == [48, 48]
    # A tenant of its own: the same server has nothing for it from the other's turn.
    assert told["servers"][1]["cached_share"] < 0.05
    assert told["ratios"]["beside"]["tokens_a_second"] > 0
    assert "worker / beside" in ran.out.splitlines()[0]


@pytest.mark.parametrize("api", [slow("raw"), "chat"])
def test_a_server_that_speaks_http_gets_the_same_prompts(
    api: str, worker: Worker, other: tuple[str, type[OpenAI]], tmp_path: Path
) -> None:
    url, handler = other
    file = tmp_path / "bench.json"
    (tmp_path / "token").write_text("secret\n")
    asked = ("--api", api, "--addr", worker.address, "--http-token-file", tmp_path / "token")
    told = figures(run(*SMALL, *asked, "--beside-http", url, "--json", file), file)
    ours, theirs = told["servers"]
    assert (theirs["requests"], theirs["tokens"], theirs["cached_share"]) == (6, 48, 0.2)
    assert ours["requests"] == 6 and told["ratios"]["http"]["first_p50"] > 0
    path = {"raw": "/v1/completions", "chat": "/v1/chat/completions"}[api]
    assert {one["path"] for one in handler.asked} == {path}
    assert {(one["model"], one["token"], one["ignore_eos"]) for one in handler.asked} == {
        ("the-model", "Bearer secret", True)
    }
    prompts = {one["prompt"] if api == "raw" else one["messages"][0]["content"] for one in handler.asked}
    assert len(prompts) == 7  # six, and one to warm up


@pytest.mark.slow
def test_what_a_server_refuses_is_counted_and_named(worker: Worker, other: tuple[str, type[OpenAI]]) -> None:
    url, handler = other
    handler.status = 503
    refused = run(*SMALL, "--warm-up", "0", "--addr", worker.address, "--beside-http", url)
    assert refused.code == 1 and '6 x The server answers 503: {"error": "busy"}' in refused.out
    warm = run(*SMALL, "--addr", worker.address, "--beside-http", url)
    assert warm.code == 69 and warm.err.splitlines()[-1].startswith("http: The server answers 503")
    assert run(*SMALL, "--addr", "127.0.0.1:1").code == 69
    long = run("--answer-tokens", "9000", "--addr", worker.address)
    assert long.code == 2 and "the model's context 8192" in long.err


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("before it began", "The answer stops before its end."),
        ("too soon", "The answer stops before its end."),
        ("within a piece", ""),
        ("without a token", "The answer has no tokens."),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(
    ends: str, words: str, worker: Worker, other: tuple[str, type[OpenAI]]
) -> None:
    url, handler = other
    handler.ends = ends
    broken = run(*SMALL, "--requests", "1", "--warm-up", "0", "--addr", worker.address, "--beside-http", url)
    assert broken.code == 1 and f"http: 1 x {words}" in broken.out


@pytest.mark.slow
def test_requests_that_arrive_and_find_no_stream_are_counted(worker: Worker, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ran = run(
        *("--streams", "1", "--rate", "100", "--requests", "400", "--seconds", "1", "--answer-tokens", "2000"),
        *("--warm-up", "0", "--addr", worker.address, "--json", file),
    )
    [server] = figures(ran, file)["servers"]
    assert server["cut"] == 1
    assert 60 < server["requests"] + server["cut"] + server["not_begun"] < 150
    assert "so these times are a lower bound" in ran.out
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)


def test_a_file_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    ran = run("--addr", "127.0.0.1:1", "--json", tmp_path / "none" / "b.json")
    assert ran.code == 2 and "b.json cannot be written: No such file or directory" in ran.err
    (tmp_path / "kept.json").write_text("kept")
    assert run("--addr", "127.0.0.1:1", "--json", tmp_path / "kept.json").code == 69
    assert run("--addr", "127.0.0.1:1", "--json", tmp_path / "new.json").code == 69
    assert (tmp_path / "kept.json").read_text() == "kept" and not (tmp_path / "new.json").exists()


@pytest.mark.slow
def test_time_ends_a_run_and_what_runs_then_is_cut_not_failed(
    worker: Worker, other: tuple[str, type[OpenAI]], tmp_path: Path
) -> None:
    url, handler = other
    handler.stall = True
    file = tmp_path / "bench.json"
    bounds = ("--seconds", "1", "--warm-up", "0", "--rounds", "1", "--answer-tokens", "7000", "--streams", "2")
    told = figures(run(*bounds, "--addr", worker.address, "--beside-http", url, "--json", file), file)
    for server in told["servers"]:
        assert server["cut"] == 2 and server["errors"] == {} and server["seconds"] < 5
    worker.wait_for_queue(lambda queue: queue["in_flight"] == 0)


@pytest.mark.slow
def test_a_trace_is_replayed_by_its_clock(worker: Worker, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace.jsonl", tmp_path / "bench.json"
    requests = [(0, 2000, 100, [1, 2, 3, 4]), (8000, 2000, 100, [1, 2, 3, 5]), (16000, 2100, 100, [1, 2, 3, 5, 6])]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    trace.write_text("".join(json.dumps(dict(zip(names, one, strict=True))) + "\n" for one in requests))
    ran = run("--trace", trace, "--scale", "0.05", "--speed", "4", "--addr", worker.address, "--json", file)
    [server] = figures(ran, file)["servers"]
    assert server["requests"] == 3 and server["tokens"] == 15
    moments = [one["at"] for one in server["samples"]]
    # Never before its time, and later only as a busy machine is late.
    assert [round(moment, 2) >= due for moment, due in zip(moments, (0, 2, 4), strict=True)] == [True] * 3
    assert moments == pytest.approx([0.0, 2.0, 4.0], abs=1.5)
    assert server["cached_share"] > 0.3


@pytest.mark.slow
def test_a_long_prompt_tells_the_log_how_far_it_is(worker: Worker) -> None:
    before = len(worker.log.lines)
    ran = run(
        "--requests", "1", "--warm-up", "0", "--prompt-tokens", "700", "--seconds", "30", "--addr", worker.address
    )
    assert ran.code == 0, ran.err
    told = worker.log.wait_for(r" prefill request_id=\S+ done=(\d+) of=(\d+) tokens_per_s=(\S+) left_s=", after=before)
    assert 0 < int(told[1]) < int(told[2]) and float(told[3]) > 0


@pytest.mark.slow
def test_it_shows_itself_in_a_terminal_and_ctrl_c_shows_what_there_is() -> None:
    with Terminal("bench", "--model", str(TINY_CHAT), "--requests", "5000", "--answer-tokens", "20") as terminal:
        terminal.wait_for(r"measuring .*\d+ of 5,000 requests", 30)
        terminal.press(CTRL_C)
        terminal.wait_for("tokens/s over time")
        assert terminal.code() == 130
