"""Hub downloads against a hub on a loopback socket, through the process that does them."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.loading import locate_model
from tests.engine.loading.hub_stub import REPOSITORY, HubStub

LARGE = bytes(range(256)) * 4 * 12_800  # 12.5 MiB: the hub's library reads 10 MiB at a time
FILES = {
    "config.json": b"{}",
    "model.safetensors": LARGE,
    "tokenizer.json": b"{}",
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"not wanted",
}
CONFIG = ModelConfig(identity="m", candidates=("/nowhere/at/all", REPOSITORY))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    with HubStub(dict(FILES)) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield stub


def test_a_repository_is_downloaded_whole_and_only_what_a_model_needs(hub: HubStub) -> None:
    seen: list[tuple[str, int, int]] = []
    path = locate_model(CONFIG, progress=lambda *report: seen.append(report))
    assert (path / "model.safetensors").read_bytes() == LARGE
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert seen
    assert all(stage == "download" for stage, _, _ in seen)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_code_is_downloaded_only_where_it_is_trusted(hub: HubStub) -> None:
    trusted = ModelConfig(identity="m", candidates=(f"hf://{REPOSITORY}",), trust_remote_code=True)
    assert (locate_model(trusted) / "modeling.py").exists()


@pytest.mark.slow
def test_a_cancelled_download_ends_at_once_and_the_next_one_continues_it(
    hub: HubStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stall_after = len(LARGE) - 1000

    monkeypatch.setenv("MLX_WORKER_TOKEN", "secret")
    environments: list[dict[str, str]] = []

    def part_is_on_disk() -> bool:
        environments.extend(child.environ() for child in psutil.Process().children() if child.is_running())
        # The connection waits for a minute: only a part of the file can be there when this is true.
        return any(part.stat().st_size >= 10 << 20 for part in tmp_path.rglob("*.part"))

    started = time.monotonic()
    with pytest.raises(ModelLoadFailed, match="the download was cancelled"):
        locate_model(CONFIG, cancelled=part_is_on_disk)
    assert time.monotonic() - started < 30
    downloads = [environment for environment in environments if "HF_ENDPOINT" in environment]
    assert downloads and not any("MLX_WORKER_TOKEN" in environment for environment in downloads)

    hub.stall_after = None
    seen: list[int] = []
    path = locate_model(CONFIG, progress=lambda _stage, done, _total: seen.append(done))
    assert (path / "model.safetensors").read_bytes() == LARGE
    assert hub.ranges == [f"bytes={10 << 20}-"]
    assert seen[-1] == len(LARGE) + len(FILES["config.json"]) * 2


@pytest.mark.slow
def test_a_dropped_connection_is_taken_up_where_it_broke(hub: HubStub) -> None:
    hub.drop_after = 11 << 20
    path = locate_model(CONFIG)
    assert (path / "model.safetensors").read_bytes() == LARGE
    assert len(hub.ranges) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "GatedRepo", "is gated"),
        (403, "GatedRepo", "is gated"),
        (401, "RepoNotFound", "does not exist, or is private"),
        (404, "RepoNotFound", "does not exist, or is private"),
        (404, "RevisionNotFound", "has no such revision"),
    ],
)
def test_a_refusal_of_the_hub_becomes_one_line_that_names_the_repository(
    hub: HubStub, status: int, code: str, says: str
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(ModelLoadFailed, match=says) as failure:
        locate_model(CONFIG)
    assert REPOSITORY in failure.value.message
    assert "\n" not in failure.value.message


@pytest.mark.slow
def test_offline_a_downloaded_repository_is_found_and_another_is_named_missing(
    hub: HubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = locate_model(CONFIG)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = len(hub.requests)
    assert locate_model(CONFIG) == path
    with pytest.raises(ModelLoadFailed, match="'someone/other' is not in the cache"):
        locate_model(ModelConfig(identity="m", candidates=("someone/other",)))
    assert len(hub.requests) == before


def test_an_unreachable_hub_is_named_as_such(hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelLoadFailed, match="cannot be reached"):
            locate_model(CONFIG)


def test_a_disk_that_takes_no_more_is_named_and_nothing_half_written_is_returned(hub: HubStub) -> None:
    # The limit of file sizes is inherited; a write over it fails the way a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(ModelLoadFailed, match=r"cannot be written to .*: File too large"):
            locate_model(CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_download_larger_than_the_disk_is_refused_before_it_starts(hub: HubStub) -> None:
    hub.claimed_bytes = 10**18
    with pytest.raises(ModelLoadFailed, match=r"needs 10+4 bytes, \d+ are free"):
        locate_model(CONFIG)
    assert not any("GET" in request and "resolve" in request for request in hub.requests)


def test_an_absolute_path_that_does_not_exist_never_reaches_the_hub(hub: HubStub) -> None:
    with pytest.raises(ModelLoadFailed, match="model path does not exist: /nonexistent/x"):
        locate_model(ModelConfig(identity="m", candidates=("/nonexistent/a", "/nonexistent/x")))
    assert hub.requests == []


@pytest.mark.slow
def test_a_download_beside_a_thousand_connections_is_read(hub: HubStub) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert (locate_model(CONFIG) / "config.json").is_file()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
