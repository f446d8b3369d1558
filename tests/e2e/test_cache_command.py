"""`mlx-worker cache` against a worker with a directory, and against the directory."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backend.cache_command.command import cache
from backend.pb import backend_pb2 as pb
from tests.e2e.worker import ROOT, TINY_CHAT, Worker, wait_until

RULES = "You are a careful assistant of the city's library. Answer in one sentence, and name your source. "


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: str | Path, **environment: str) -> Ran:
    """The command in this process: starting another each time takes longer than what it does."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cache([*map(str, arguments)], environment, stdin=io.StringIO())
    return Ran(code, out.getvalue(), err.getvalue())


def spawned(*arguments: str | Path, **environment: str) -> Ran:
    """The command as a person starts it."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_WORKER_", "LOCALAI_"))}
    ran = subprocess.run(
        [sys.executable, "-m", "backend", "cache", *map(str, arguments)],
        cwd=ROOT,
        env=known | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def listed(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    return {prefix["name"]: prefix for prefix in json.loads(ran.out)["prefixes"]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "kv"


@pytest.fixture(scope="module")
def process(directory: Path) -> Iterator[Worker]:
    secret = (("authorization", "Bearer t"),)
    options = ("--prompt-cache-dir", str(directory))
    with Worker(*options, environment={"MLX_WORKER_TOKEN": "t"}, metadata=secret) as worker:
        yield worker


@pytest.fixture
def worker(process: Worker) -> Worker:
    """With tiny-chat and an empty cache."""
    loaded = process.stub.LoadModel(pb.ModelOptions(Model=str(TINY_CHAT)), metadata=process.metadata, timeout=60)
    assert loaded.success, loaded.message
    request = pb.ClearPromptCacheRequest(everything=True)
    assert process.prompt_cache.Clear(request, metadata=process.metadata, timeout=60).success
    return process


def test_a_name_is_pinned_listed_shown_and_removed(worker: Worker, tmp_path: Path) -> None:
    at, token = ("--addr", worker.address), {"MLX_WORKER_TOKEN": "t"}
    assert spawned("list", *at, **token).out == "no prefix has a name\n"
    (tmp_path / "m.json").write_text(json.dumps([{"role": "system", "content": RULES}]))
    assert run("pin", "rules", "--messages-file", tmp_path / "m.json", *at, **token).code == 0
    pinned = run("pin", "text/1", "--prompt", RULES, *at, **token).out.splitlines()
    assert pinned[0].split() == ["NAME", "TOKENS", "SIZE", "HITS", "AGE", "IDLE", "WHERE"]
    assert pinned[1].split()[0] == "text/1" and "KiB" in pinned[1]
    found = listed(run("list", "--json", *at, **token))
    assert list(found) == ["rules", "text/1"]
    assert found["rules"]["tokens"] > 0 and found["rules"]["idle_seconds"] is None
    shown = run("show", "rules", *at, **token).out
    assert shown.startswith("name    rules\n") and "isolation" in shown and "disk.bytes" in shown
    stats = json.loads(run("show", "--json", *at, **token).out)
    assert stats["isolation"] == "performance" and stats["figures"]["n_sequences"] == 2
    for missing in (run("show", "none", *at, **token), run("rm", "none", "../x", "rules", *at, **token)):
        assert missing.code == 1 and "none: no prefix of that name" in missing.err
    assert list(listed(run("list", "--json", *at, **token))) == ["text/1"]


def test_each_tenant_has_its_own_and_clear_takes_that_alone(worker: Worker, tmp_path: Path) -> None:
    at, token = ("--addr", worker.address), {"MLX_WORKER_TOKEN": "t"}
    (tmp_path / "salt").write_text("alice\n")
    alice = ("--salt-file", tmp_path / "salt")
    assert run("pin", "hers", "--prompt", RULES, *alice, *at, **token).code == 0
    assert run("pin", "all", "--prompt", RULES, *at, **token).code == 0
    assert list(listed(run("list", "--json", *at, MLX_WORKER_CACHE_SALT="alice", **token))) == ["hers"]
    refused = run("clear", *alice, *at, **token)
    assert refused.code == 2 and "--yes" in refused.err
    assert run("clear", "--yes", *alice, *at, **token).out == "prompt cache cleared\n"
    assert not listed(run("list", "--json", *alice, *at, **token))
    assert list(listed(run("list", "--json", *at, **token))) == ["all"]
    assert run("clear", "--everything", "--yes", *at, MLX_WORKER_CACHE_SALT="alice", **token).code == 0
    assert not listed(run("list", "--json", *at, **token))


def test_a_refusal_is_one_line_and_no_worker_has_a_code_of_its_own(worker: Worker, socket_folder: Path) -> None:
    at = ("--addr", worker.address)
    for wrong in ({}, {"MLX_WORKER_TOKEN": "x"}):
        refused = spawned("list", *at, **wrong)
        assert (refused.code, refused.out) == (1, "") and "bearer token" in refused.err and refused.err.count("\n") == 1
    assert worker.stub.Free(pb.HealthMessage(), metadata=worker.metadata, timeout=30).success
    unloaded = run("list", *at, MLX_WORKER_TOKEN="t")
    assert unloaded.code == 1 and "model not loaded" in unloaded.err
    nobody = spawned("list", "--addr", f"unix:{socket_folder}/none.sock")
    assert nobody.code == 69 and len(nobody.err.splitlines()) == 1


def test_the_directory_is_looked_at_while_a_worker_uses_it(worker: Worker, directory: Path) -> None:
    at, token = ("--addr", worker.address), {"MLX_WORKER_TOKEN": "t"}
    assert run("pin", "rules", "--prompt", RULES * 10, *at, **token).code == 0

    def where() -> str:
        return (
            worker.prompt_cache.List(pb.ListPrefixesRequest(), metadata=worker.metadata, timeout=60).prefixes[0].where
        )

    wait_until(lambda: where() == "memory and disk", "the name's state is written")
    wait_until(lambda: bool(list(directory.glob("names/*.json"))), "the name is written")
    of = ("--dir", directory)
    table = run("list", *of).out
    assert "rules" in table and "MiB" in table
    assert run("verify", *of).out.endswith("all right\n")
    bad = min(directory.glob("v1/*/*/*.kv"))
    content = bytearray(bad.read_bytes())
    content[-1] ^= 1
    bad.write_bytes(content)
    found = run("verify", *of)
    assert found.code == 1 and bad.name in found.out and "checksum" in found.out
    namespace = bad.parents[1].name
    assert run("rm", namespace[:16], *of).code == 0
    assert not list(directory.glob("v1/*/*/*.kv")) and not list(directory.glob("names/*.json"))
    # The worker goes on with what it has in memory.
    assert list(listed(run("list", "--json", *at, **token))) == ["rules"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_worker_that_serves_tls_is_trusted_by_its_certificate(tmp_path: Path) -> None:
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem "
            "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        ),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=30,
    )
    with Worker("--tls-certificate", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")) as worker:
        at = ("--addr", f"localhost:{worker.address.rpartition(':')[2]}")
        trusted = run("list", "--tls-ca", tmp_path / "cert.pem", *at)
        assert trusted.code == 1 and "model not loaded" in trusted.err
        assert run("list", *at).code == 69
