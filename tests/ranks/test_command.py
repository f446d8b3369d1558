"""`mlx-worker ranks`: what it starts, and how that ends."""

import os
import signal
from itertools import pairwise
from pathlib import Path

import grpc
import psutil
import pytest

from backend.engine.ranks.world import BadWorld, world_of
from backend.process.exit_codes import ExitCode
from backend.ranks_command.command import launch_command
from backend.ranks_command.options import parse_options
from tests.e2e.asking import predict, prompt
from tests.e2e.worker import Worker
from tests.models import write_model
from tests.ranks.world import free_ports


def told(command: list[str]) -> dict[str, str]:
    """The environment that ranks are given."""
    return dict(value.split("=", 1) for flag, value in pairwise(command) if flag == "--env")


def test_hosts_become_ranks_with_their_control_address_and_the_workers_own_arguments() -> None:
    options = parse_options(["--hosts", "10.0.0.1,10.0.0.2", "--addr", "127.0.0.1:1", "--port", "5000", "--max-rows=4"])
    command = launch_command("mlx.launch", options)
    assert (options.size, options.is_local, options.worker) == (2, False, ("--addr", "127.0.0.1:1", "--max-rows=4"))
    assert command[:3] == ["mlx.launch", "--hosts", "10.0.0.1,10.0.0.2"]
    assert command[command.index("--") :] == ["--", "-m", "backend", "--addr", "127.0.0.1:1", "--max-rows=4"]
    world = world_of(told(command) | {"MLX_RANK": "1"})
    assert world is not None
    assert (world.rank, world.size, world.backend, world.control) == (1, 2, "ring", ("10.0.0.1", 5000))
    assert world.launcher == os.getpid()
    assert parse_options(["--hosts", "127.0.0.1", "-n", "3"]).is_local


def test_a_file_of_hosts_names_ranks_addresses_and_backend(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('{"backend": "jaccl", "hosts": [{"ssh": "a", "ips": ["10.0.0.1"]}, {"ssh": "b", "ips": []}]}')
    options = parse_options(["--hostfile", str(hosts)])
    assert (options.size, options.backend, options.control) == (2, "jaccl", "10.0.0.1:32322")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--hosts", "127.0.0.1"], ["--hosts", "a,"], ["--hostfile", "/nowhere"], ["--hosts", "a", "-n", "0"]],
)
def test_what_names_no_ranks_is_refused_as_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments)
    assert ended.value.code == ExitCode.USAGE
    assert "mlx-worker ranks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLX_WORKER_RANKS", "1"),
        ("MLX_WORKER_RANKS", "x"),
        ("MLX_RANK", "2"),
        ("MLX_WORKER_RANKS_BACKEND", "pigeons"),
        ("MLX_WORKER_RANKS_CONTROL", "nowhere"),
        ("MLX_WORKER_RANKS_TOKEN", ""),
    ],
)
def test_an_environment_that_is_not_whole_is_named(name: str, value: str) -> None:
    whole = told(launch_command("x", parse_options(["--hosts", "127.0.0.1", "-n", "2"]))) | {"MLX_RANK": "0"}
    assert world_of(whole) is not None
    assert world_of({}) is None
    with pytest.raises(BadWorld, match="MLX_WORKER_RANKS"):
        world_of(whole | {name: value})


@pytest.mark.slow
def test_the_command_serves_stops_and_tells_how_its_ranks_end(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qwen3", "qwen3", layers=2)
    port = free_ports(1)[0]
    command = ("-m", "backend", "ranks", "--hosts", "127.0.0.1", "-n", "2", "--port", str(port))
    with Worker(command=command) as worker:
        worker.must_load(model, "memory_share:0.3")
        assert predict(worker.stub, prompt("once", 4)).code is grpc.StatusCode.OK
    with Worker(command=command) as worker:
        pid = int(worker.log.wait_for(r"rank_ready rank=1 size=2 pid=(\d+)")[1])
        worker.expected_code = ExitCode.ENGINE_DEAD
        os.kill(pid, signal.SIGKILL)
        assert worker.wait(60) in (ExitCode.ENGINE_DEAD, 128 + signal.SIGKILL)
        worker.expected_code = worker.process.returncode
        assert "rank 1 is gone" in worker.log.whole()[-1]


@pytest.mark.slow
def test_ranks_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    command = ("-m", "backend", "ranks", "--hosts", "127.0.0.1", "-n", "2", "--port", str(port))
    with Worker(command=command) as worker:
        pids = [int(worker.log.wait_for(rf"{words} pid=(\d+)")[1]) for words in ("ready address=.*", "rank_ready .*")]
        processes = [psutil.Process(pid) for pid in pids]
        worker.expected_code = -signal.SIGKILL
        worker.signal(signal.SIGKILL)
        worker.wait(60)  # until then it is there, though dead
        assert not psutil.wait_procs(processes, 10)[1]
