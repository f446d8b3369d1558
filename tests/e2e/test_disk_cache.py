"""What a prompt cache's directory gives a worker that comes after: hits, names, and nothing that is not its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, predict, prompt
from tests.e2e.worker import Worker, wait_until
from tests.models import write_model

Model = Callable[..., Path]
slow = pytest.mark.slow
TEXT = "The archive keeps the letters of three centuries, and nobody has read more than a tenth of them. " * 7
QUESTION = TEXT + "Who reads them? "


def asked(text: str = QUESTION, salt: str = "", **fields: Any) -> pb.PredictOptions:
    metadata = {"cache_salt": salt} if salt else {}
    return prompt(text, 6, Logprobs=1, TopLogprobs=3, IgnoreEOS=True, Metadata=metadata, **fields)


def bits(answer: Answer) -> tuple[str, bytes]:
    return answer.text, answer.last.logprobs


def hit(answer: Answer) -> tuple[int, str]:
    return int(answer.trailing["x-prompt-cache-tokens"]), answer.trailing["x-prompt-cache-reason"]


def figure(worker: Worker, name: str) -> float:
    return worker.info.Get(pb.InfoRequest(), timeout=60).cache[name]


@pytest.mark.parametrize(
    "family", ["qwen3", *(pytest.param(name, marks=slow) for name in ("qwen3_next", "gemma3_text"))]
)
def test_a_restarted_worker_hits_what_the_old_one_knew(tmp_path: Path, random_model: Model, family: str) -> None:
    model, options = random_model(family), ("--prompt-cache-dir", str(tmp_path / "kv"))
    with Worker(*options) as old:
        old.must_load(model)
        cold = predict(old.stub, asked())
        assert hit(cold)[0] == 0
        in_memory = predict(old.stub, asked())
    with Worker(*options) as new:
        new.must_load(model)
        assert new.info.Get(pb.InfoRequest(), timeout=60).details["prompt_cache_disk"] == "on"
        restored = predict(new.stub, asked())
        assert hit(restored) == (hit(in_memory)[0], "disk")
        assert bits(restored) == bits(in_memory)
        # What came from there is in memory now.
        again = predict(new.stub, asked())
        assert hit(again) == hit(in_memory)
        assert bits(again) == bits(in_memory)
        assert figure(new, "disk.hits") == 1
        longer = predict(new.stub, asked(QUESTION + cold.text + " And why? "))
        assert hit(longer)[0] >= len(QUESTION) - 1


@pytest.mark.slow
def test_no_tenant_hits_anothers_files(tmp_path: Path, random_model: Model) -> None:
    model, options = random_model(), ("--prompt-cache-dir", str(tmp_path / "kv"))
    with Worker(*options) as old:
        old.must_load(model)
        predict(old.stub, asked(salt="alice"))
    with Worker(*options) as new:
        new.must_load(model)
        assert hit(predict(new.stub, asked(salt="bob"))) == (0, "empty")
        assert hit(predict(new.stub, asked())) == (0, "empty")
        assert hit(predict(new.stub, asked(salt="alice"))) == (len(QUESTION) - 1, "disk")
    written = b"".join(file.read_bytes() for file in (tmp_path / "kv").rglob("*") if file.is_file())
    assert b"alice" not in written
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "kv").rglob("*")}
    assert modes <= {0o600, 0o700}


@slow
def test_another_model_a_changed_one_and_another_chunk_do_not_hit(tmp_path: Path, random_model: Model) -> None:
    options = ("--prompt-cache-dir", str(tmp_path / "kv"))
    with Worker(*options) as old:
        old.must_load(random_model())
        predict(old.stub, asked())
        # A load in place of another: the directory is flushed to, and read for the next.
        old.must_load(random_model("llama"))
        assert hit(predict(old.stub, asked()))[0] == 0
        old.must_load(random_model(), "prefill_chunk:64")
        assert hit(predict(old.stub, asked()))[0] == 0
        old.must_load(random_model())
        assert hit(predict(old.stub, asked())) == (len(QUESTION) - 1, "disk")


@slow
@pytest.mark.parametrize("mode", ["strict", "performance"])
def test_names_outlive_the_process(tmp_path: Path, random_model: Model, mode: str) -> None:
    model, options = random_model(), ("--prompt-cache-dir", str(tmp_path / "kv"), "--isolation", mode)
    whose = {"cache_salt": "alice"}
    with Worker(*options) as old:
        old.must_load(model)
        without = bits(predict(old.stub, asked(salt="alice", PromptCacheRO=True)))
        made = old.prompt_cache.Create(pb.CreatePrefixRequest(name="rules", prompt=TEXT, metadata=whose), timeout=60)
        old.prompt_cache.Create(pb.CreatePrefixRequest(name="gone", prompt=TEXT, metadata=whose), timeout=60)
        old.prompt_cache.Delete(pb.DeletePrefixRequest(name="gone", metadata=whose), timeout=60)

        def listed(worker: Worker) -> dict[str, str]:
            found = worker.prompt_cache.List(pb.ListPrefixesRequest(metadata=whose), timeout=60).prefixes
            return {prefix.name: prefix.where for prefix in found}

        wait_until(lambda: listed(old) == {"rules": "memory and disk"}, "the name's state is written")
    with Worker(*options) as new:
        new.must_load(model)
        assert listed(new) == {"rules": "disk"}
        before = new.queue()["prefilled_tokens"]
        answer = predict(new.stub, asked(salt="alice"))
        assert bits(answer) == without
        assert new.queue()["prefilled_tokens"] - before == len(QUESTION) - 1 - made.tokens
        assert listed(new) == {"rules": "memory and disk"}
        assert new.prompt_cache.Clear(pb.ClearPromptCacheRequest(metadata=whose), timeout=60).success
        assert not listed(new)
        wait_until(lambda: not list((tmp_path / "kv").rglob("*.kv")), "the tenant's files are gone")
    with Worker(*options) as last:
        last.must_load(model)
        assert not listed(last)


@slow
def test_a_conversation_that_is_forgotten_is_gone_from_the_disk_too(tmp_path: Path, random_model: Model) -> None:
    options = ("--prompt-cache-dir", str(tmp_path / "kv"), "--conversation-idle", "1s")
    with Worker(*options) as worker:
        worker.must_load(random_model())
        for _ in range(2):  # a hit is what is written at once
            predict(worker.stub, prompt(QUESTION, 6, IgnoreEOS=True, Metadata={"conversation_id": "7"}))
        wait_until(lambda: bool(list((tmp_path / "kv").rglob("*.kv"))), "something is written")
        wait_until(lambda: not list((tmp_path / "kv").rglob("*.kv")), "its files are gone")
        assert worker.queue()["cached_kv_bytes"] == 0


@slow
def test_conversations_are_known_after_a_restart_their_limit_and_their_idle_time_hold(
    tmp_path: Path, random_model: Model
) -> None:
    model, options = random_model(), ("--prompt-cache-dir", str(tmp_path / "kv"))
    texts = {name: f"{name} {QUESTION}" for name in ("a", "b", "")}

    def turn(worker: Worker, name: str) -> int:
        metadata = {"conversation_id": f"letters-{name}"} if name else {}
        return hit(predict(worker.stub, prompt(texts[name], 6, IgnoreEOS=True, Metadata=metadata)))[0]

    def kept() -> int:
        return len(list((tmp_path / "kv" / "conversations").glob("*.json")))

    with Worker(*options) as first:
        first.must_load(model)
        assert [turn(first, name) for name in texts] == [0, 0, 0]
    assert kept() == 2
    written = [path for path in (tmp_path / "kv").rglob("*") if path.is_file()]
    assert not [path for path in written if "letters" in path.name or b"letters-" in path.read_bytes()]
    with Worker(*options, "--max-conversations", "1") as second:
        second.must_load(model)
        wait_until(lambda: kept() == 1, "the idler one is forgotten")
        assert [turn(second, name) > 0 for name in ("b", "")] == [True, True]
        assert turn(second, "a") == 0
        wait_until(lambda: kept() == 1, "that is a conversation in place of the other")
    with Worker(*options, "--conversation-idle", "1s") as third:
        third.must_load(model)
        wait_until(lambda: kept() == 0, "what has been idle is forgotten")
        assert [turn(third, name) > 0 for name in ("a", "b", "")] == [False, False, True]


@slow
@pytest.mark.parametrize("what", ["a file", "open to others"])
def test_a_directory_that_cannot_be_used_leaves_the_cache_in_memory_and_info_says_why(
    tmp_path: Path, random_model: Model, what: str
) -> None:
    directory = tmp_path / "kv"
    if what == "a file":
        directory.write_text("no directory")
    else:
        directory.mkdir()
        directory.chmod(0o777)
    with Worker("--prompt-cache-dir", str(directory)) as worker:
        worker.must_load(random_model())
        told = worker.info.Get(pb.InfoRequest(), timeout=60).details["prompt_cache_disk"]
        assert told.startswith("off: ") and str(directory) in told
        assert hit(predict(worker.stub, asked()))[0] == 0
        assert hit(predict(worker.stub, asked()))[0] == len(QUESTION) - 1


@slow
def test_a_load_may_name_the_directory_below_its_models(tmp_path: Path, random_model: Model) -> None:
    model = random_model()
    for expected in (0, len(QUESTION) - 1):
        with Worker() as worker:
            loaded = worker.stub.LoadModel(
                pb.ModelOptions(Model=str(model), ModelPath=str(tmp_path), Options=["prompt_cache_dir:kv"]), timeout=60
            )
            assert loaded.success, loaded.message
            assert hit(predict(worker.stub, asked()))[0] == expected
    assert (tmp_path / "kv").is_dir()


@slow
@pytest.mark.parametrize(
    ("codes", "bits_each"),
    [
        # Scales and biases are float32 on a CPU, one of each for 64 numbers.
        (("--kv-bits", "4"), 4 + 1),
        (("--cache-kv-bits", "4"), 4 + 1),
        (("--cache-kv-bits", "8"), 8 + 1),
        (("--kv-bits", "8", "--quantized-kv-start", "300"), 8 + 1),
    ],
)
def test_codes_go_to_the_disk_and_back(tmp_path: Path, codes: tuple[str, ...], bits_each: int) -> None:
    model = write_model(tmp_path / "wide", "qwen3", extra={"head_dim": 64})
    options = ("--prompt-cache-dir", str(tmp_path / "kv"), *codes)
    with Worker(*options) as old:
        old.must_load(model)
        predict(old.stub, asked())
        in_memory = predict(old.stub, asked())
    with Worker(*options) as new:
        new.must_load(model)
        assert new.info.Get(pb.InfoRequest(), timeout=60).details["prompt_cache_disk"] == "on"
        restored = predict(new.stub, asked())
        assert hit(restored) == (len(QUESTION) - 1, "disk")
        assert bits(restored) == bits(in_memory)
        read = figure(new, "disk.bytes_read")
    numbers = 2 * 2 * 2 * 64 * (len(QUESTION) - 1)  # layers, keys and values, heads, features
    assert read < 1.1 * numbers * bits_each / 8


@pytest.mark.slow
def test_loads_with_a_directory_leave_no_thread_behind(tmp_path: Path, random_model: Model) -> None:
    models = [random_model("qwen3"), random_model("llama")]
    with Worker("--prompt-cache-dir", str(tmp_path / "kv")) as worker:
        seen: list[int] = []
        for turn in range(9):
            worker.must_load(models[turn % 2])
            predict(worker.stub, asked())
            seen.append(worker.threads().total())
        assert figure(worker, "disk.hits") > 0
    # The first turns begin the pools, gRPC's among them, and MLX has a thread for each of ours that evaluates.
    assert seen[-1] - seen[2] <= 3, seen
