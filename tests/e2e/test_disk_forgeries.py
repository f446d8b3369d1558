"""The real worker over a directory that lost its power, or that somebody has tampered with who may even sign."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import predict, prompt, stream
from tests.e2e.oracle import Golden, half_written
from tests.e2e.test_disk_faults import ASKED, OK, answered, files, over
from tests.e2e.worker import Worker
from tests.mlx_cache.disk.test_bad_files import TABLES, rewritten
from tests.mlx_cache.disk.test_power_loss import faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Model = Callable[..., Path]
# A few of the file's tests, by what they say that is wrong.
SIGNED = ("a class that is a function of Python", "a class that exists and was not asked for", "fewer layers")
PLACES = ("a negative position", "a huge position", "other heads")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, Any]], list[bytes]]:
    """A directory that a worker has filled, the calls that made it, and what it answered."""
    folder = tmp_path_factory.mktemp("written")
    told, directory = folder / "told", folder / "kv"
    command = ("-m", "tests.e2e.recorded_worker", str(told))
    with Worker("--prompt-cache-dir", str(directory), "--prompt-cache-bytes", "2MiB", command=command) as worker:
        worker.must_load()
        expected = [answered(worker, request) for request in ASKED]
    return directory, [_call(line.split()) for line in told.read_text().splitlines()], expected


def _call(words: list[str]) -> tuple[str, Any]:
    """A line as `faults` takes it."""
    match words:
        case ["create", fd, name]:
            return "create", (fd, name)
        case ["rename", name, folder, _]:
            return "rename", (name, folder)
        case [call, what]:
            return call, what
        case _:
            raise AssertionError(words)


def check(directory: Path, expected: list[bytes], *, quarantined: bool) -> None:
    """A worker over it answers exactly, is as good as new afterwards, and has put aside what is wrong."""
    with over(directory) as worker:
        worker.must_load()
        assert [answered(worker, request) for request in ASKED] == expected
        aside = worker.info.Get(pb.InfoRequest(), timeout=10).cache["disk.quarantined"]
        assert bool(aside) == quarantined, aside
        golden = Golden.of(worker, directory)
        assert [answered(worker, request) for request in ASKED] == expected
        golden.check(worker)
    assert not half_written(directory)


def test_the_power_may_go_at_any_call_of_a_worker_that_writes(
    written: tuple[Path, list[tuple[str, Any]], list[bytes]], tmp_path: Path
) -> None:
    directory, calls, expected = written
    named = [index for index, (call, _) in enumerate(calls) if call == "rename"]
    assert len(named) > 4
    assert faults(calls) == []
    # So what is there after it are the files that had their names, whole, and parts of one that had none.
    there = sorted(files(directory), key=lambda path: path.stat().st_mtime_ns)
    for kept in (1, len(there) // 2):
        lost = tmp_path / f"kv{kept}"
        shutil.copytree(directory, lost)
        for path in there[kept:]:
            (lost / path.relative_to(directory)).unlink()
        half = lost / there[kept].relative_to(directory).with_name(".tmp-1-0123456789abcdef")
        half.write_bytes(there[kept].read_bytes()[:5000])
        check(lost, expected, quarantined=False)


@pytest.mark.parametrize("what", [*SIGNED, *PLACES])
def test_a_file_that_is_signed_and_wrong_costs_a_hit(
    what: str, written: tuple[Path, list[tuple[str, Any]], list[bytes]], tmp_path: Path
) -> None:
    directory, _, expected = written
    shutil.copytree(directory, tmp_path / "kv")
    for path in files(tmp_path / "kv"):
        rewritten(path, tmp_path / "kv", change=TABLES[what])
    check(tmp_path / "kv", expected, quarantined=True)


@pytest.mark.parametrize("to", ["a stranger's file", "what was there"])
def test_links_in_a_directory_are_not_followed(
    to: str, written: tuple[Path, list[tuple[str, Any]], list[bytes]], tmp_path: Path
) -> None:
    directory, _, expected = written
    shutil.copytree(directory, tmp_path / "kv")
    victim, moved = tmp_path / "victim", tmp_path / "moved"
    victim.write_bytes(b"mine" * 4096)
    moved.mkdir()
    for index, path in enumerate(files(tmp_path / "kv")):
        if index % 2:
            # Whoever follows a link to the very file has nothing to put aside.
            where = victim if to == "a stranger's file" else moved / path.name
            path.rename(where) if where is not victim else path.unlink()
            path.symlink_to(where)
    folder = next(path for path in (tmp_path / "kv" / "v1").rglob("*") if path.is_dir() and len(path.name) == 2)
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    check(tmp_path / "kv", expected, quarantined=True)
    assert victim.read_bytes() == b"mine" * 4096 and not list((tmp_path / "elsewhere").iterdir())


def test_names_that_lead_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    with over(directory) as worker:
        worker.must_load()
        golden = Golden.of(worker, directory)
        for path in ("../x", "/etc/passwd", "a/../../x", "a\0b", "~/x", "."):
            predict(worker.stub, prompt("Once", 2, PromptCachePath=path)).refused(grpc.StatusCode.INVALID_ARGUMENT)
            with pytest.raises(grpc.RpcError) as refused:
                worker.prompt_cache.Create(pb.CreatePrefixRequest(name=path, prompt="Once upon a time"), timeout=30)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, path
        golden.check(worker)
    assert not (tmp_path / "x").exists() and not list(tmp_path.rglob("passwd"))


def test_a_file_that_was_made_for_one_tenant_serves_no_other(tmp_path: Path) -> None:
    directory, alice, bob = tmp_path / "kv", {"cache_salt": "alice"}, {"cache_salt": "bob"}
    asked = [prompt("Once upon a time " * 150, 4, Logprobs=1, IgnoreEOS=True, Metadata=whose) for whose in (alice, bob)]
    with Worker("--prompt-cache-dir", str(directory)) as worker:
        worker.must_load()
        expected = {answered(worker, request) for request in asked}
    of = {path.parent.parent.name for path in files(directory)}
    one, other = ([path for path in files(directory) if path.parent.parent.name == name] for name in sorted(of))
    # Each under the names that the other's have, which nobody could know who does not see both.
    for mine, theirs in zip(
        *(sorted(paths, key=lambda path: path.stat().st_size) for paths in (one, other)), strict=True
    ):
        told = mine.read_bytes(), theirs.read_bytes()
        mine.write_bytes(told[1])
        theirs.write_bytes(told[0])
    with Worker("--prompt-cache-dir", str(directory)) as worker:
        worker.must_load()
        golden = Golden.of(worker, directory)
        for request in asked:
            answer = stream(worker.stub, request)
            assert answer.code is OK and int(answer.trailing["x-prompt-cache-tokens"]) == 0
            assert {answer.last.logprobs} == expected
        assert worker.info.Get(pb.InfoRequest(), timeout=10).cache["disk.quarantined"] >= 2
        golden.check(worker)


def test_a_window_that_has_wrapped_is_hit_where_it_was_kept_and_nowhere_else(
    tmp_path: Path, random_model: Model
) -> None:
    model, text = random_model("gemma3_text"), "It goes round and round, and then it goes on. " * 12
    # The whole, what goes on from it, and beginnings of it that end where nothing was kept.
    asked = [
        prompt(part, 6, Logprobs=1, IgnoreEOS=True) for part in (text, text + "And?", text[:300], text[:450] + "No")
    ]
    with Worker("--prompt-cache-size", "0") as worker:
        worker.must_load(model)
        expected = [stream(worker.stub, request).tokens for request in asked]
    with over(tmp_path / "kv") as worker:
        worker.must_load()
        golden = Golden.of(worker, tmp_path / "kv")
        worker.must_load(model)
        answers = [stream(worker.stub, request) for request in asked]
        assert [answer.tokens for answer in answers] == expected
        hits = [int(answer.trailing["x-prompt-cache-tokens"]) for answer in answers]
        assert hits[1] > 400 and hits[0] == 0, hits
        # What is not there is not tried: that would be a miss, and exact, too.
        assert not [line for line in worker.log.lines if "prompt_cache_failed" in line or "is put aside" in line]
        golden.check(worker)
