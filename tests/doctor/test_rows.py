"""What the doctor says of what it is shown."""

import resource
import socket
import sys
from pathlib import Path

import pytest

from backend.config import CacheConfig, MetricsConfig, ServerConfig
from backend.doctor import device, model, packages
from backend.doctor.finding import Mark, bad, counts, data, lines, ok, warn
from backend.doctor.programs import NotKnown, ask
from backend.doctor.system import address_row, cache_row, hub_cache_row, metrics_row, open_files_row, tls_row

ALONE = {"mlx": ["0.32.4"], "mlx-cpu": ["0.32.4"]}


def test_rows_are_lines_with_their_advice_below() -> None:
    rows = [ok("a", "1"), warn("long", "2", "Do."), bad("b", "3", "Mend.")]
    assert [line for _, line in lines(rows)] == [
        "ok    a     1",
        "warn  long  2",
        "            Do.",
        "bad   b     3",
        "            Mend.",
    ]
    assert counts(rows) == {"ok": 1, "warn": 1, "bad": 1}
    assert data(rows)["rows"][1] == {"name": "long", "mark": "warn", "found": "2", "advice": "Do."}


@pytest.mark.parametrize(
    ("found", "platform", "mark", "words"),
    [
        (ALONE, "linux", Mark.OK, "mlx 0.32.4 with mlx-cpu"),
        (ALONE | {"mlx-cuda-13": ["0.32.4"]}, "linux", Mark.BAD, "mlx-cpu and mlx-cuda-13 overwrite each other"),
        (ALONE | {"mlx": ["0.32.4", "0.31.0"]}, "linux", Mark.BAD, "two versions: mlx 0.32.4 and 0.31.0"),
        (ALONE | {"mlx-cpu": ["0.31.0"]}, "linux", Mark.BAD, "mlx 0.32.4 with mlx-cpu 0.31.0"),
        ({"mlx": ["0.32.4"]}, "linux", Mark.BAD, "without a backend"),
        ({"mlx": ["0.32.4"]}, "darwin", Mark.BAD, "without a backend"),
        ({}, "linux", Mark.BAD, "none"),
    ],
)
def test_two_mlx_in_one_environment_are_bad(found: dict[str, list[str]], platform: str, mark: Mark, words: str) -> None:
    row = packages.mlx_row(found, platform)
    assert (row.mark, row.found) == (mark, row.found) and words in row.found
    assert bool(row.advice) == (mark is Mark.BAD)


def test_versions_are_compared_with_those_that_the_tests_ran_on() -> None:
    found = {name: ["1"] for name in packages.LOOKED_AT}
    pinned = dict.fromkeys(packages.LOOKED_AT, "1")
    [row] = packages.version_rows(found, pinned)
    assert row.mark is Mark.OK and row.found.endswith(" and 7 others, as pinned")
    [row] = packages.version_rows(found | {"mlx-lm": ["2"]}, pinned)
    assert (row.mark, row.found) == (Mark.WARN, "mlx-lm 2 (pinned 1)")
    [row] = packages.version_rows({name: found[name] for name in found if name != "numpy"}, pinned)
    assert (row.mark, row.found) == (Mark.BAD, "missing: numpy")
    [row] = packages.version_rows(found, {})
    assert row.mark is Mark.WARN and "not here" in row.advice


def test_the_pins_are_those_of_the_list_and_this_environment_is_as_they_say() -> None:
    assert packages.pins()["mlx-lm"] == "0.32.2"
    rows = packages.rows()
    assert [row.mark for row in rows] == [Mark.OK] * 3, rows


def test_a_python_that_nothing_was_tested_on_is_a_warning() -> None:
    assert packages.python_row((3, 12)).mark is Mark.OK
    assert packages.python_row((3, 10)).mark is packages.python_row((3, 14)).mark is Mark.WARN


def test_few_open_files_are_a_warning() -> None:
    assert open_files_row((256, resource.RLIM_INFINITY)).mark is Mark.OK
    assert open_files_row((256, 4096)).mark is Mark.OK
    assert open_files_row((256, 1024)).found == "hard limit 1,024"
    assert open_files_row((256, 4096)).found == "limit 256, raised to 4,096 at the start"


def test_a_limit_that_is_high_enough_is_not_said_to_be_raised() -> None:
    assert open_files_row((20_000, resource.RLIM_INFINITY)).found == "limit 20,000"
    assert open_files_row((resource.RLIM_INFINITY, resource.RLIM_INFINITY)).found == "limit none"


def test_an_address_is_free_taken_or_none() -> None:
    assert address_row(ServerConfig(address="127.0.0.1:0")).mark is Mark.OK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        row = address_row(ServerConfig(address=f"127.0.0.1:{taken.getsockname()[1]}"))
        assert row.mark is Mark.BAD and "Address already in use" in row.found
    assert address_row(ServerConfig(address="nowhere")).mark is Mark.BAD
    exposed = address_row(ServerConfig(address="0.0.0.0:0"))
    assert exposed.mark is Mark.BAD and "others can reach it" in exposed.found
    assert address_row(ServerConfig(address="0.0.0.0:0", token="t")).mark is Mark.OK


def test_the_operators_port_is_looked_at_where_there_is_one() -> None:
    assert metrics_row(MetricsConfig()).mark is metrics_row(MetricsConfig(port=0)).mark is Mark.OK
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        row = metrics_row(MetricsConfig(port=taken.getsockname()[1]))
        assert row.mark is Mark.WARN and "Address already in use" in row.found
    assert metrics_row(MetricsConfig(port=9100, address="203.0.113.1")).mark is Mark.BAD
    assert address_row(ServerConfig(address="no.such.host.invalid:1", token="t")).mark is Mark.BAD


def test_certificate_and_key_are_looked_at_together(tmp_path: Path) -> None:
    assert tls_row(ServerConfig()).mark is Mark.OK
    assert tls_row(ServerConfig(require_tls=True)).mark is Mark.OK
    assert tls_row(ServerConfig(require_tls=True, address="0.0.0.0:1")).mark is Mark.BAD
    assert tls_row(ServerConfig(tls_certificate="/nope")).found == "/nope without a key"
    assert tls_row(ServerConfig(tls_key="/nope")).mark is Mark.BAD
    row = tls_row(ServerConfig(tls_certificate="/nope", tls_key="/nope"))
    assert (row.mark, row.found) == (Mark.BAD, "/nope: No such file or directory")
    (tmp_path / "c").write_text("no PEM")
    row = tls_row(ServerConfig(tls_certificate=str(tmp_path / "c"), tls_key=str(tmp_path / "c")))
    assert row.mark is Mark.BAD and row.advice.startswith("Give a certificate and the key")


def test_a_unix_socket_is_looked_at_without_being_made(socket_folder: Path) -> None:
    path = socket_folder / "s"
    assert address_row(ServerConfig(address=f"unix:{path}")).mark is Mark.OK
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        assert "is in use" in address_row(ServerConfig(address=f"unix:{path}")).found
    assert "too long" in address_row(ServerConfig(address=f"unix:/{'x' * 200}")).found


def test_a_cache_directory_must_be_the_workers_own_closed_and_have_room(tmp_path: Path) -> None:
    assert cache_row(CacheConfig()).mark is Mark.OK
    there = tmp_path / "kv"
    row = cache_row(CacheConfig(directory=str(there / "new"), disk_bytes=1))
    assert row.mark is Mark.OK and str(there) in row.found
    assert not there.exists()
    assert cache_row(CacheConfig(directory=str(tmp_path), disk_bytes=1 << 60)).mark is Mark.WARN
    there.mkdir()
    there.chmod(0o777)
    assert "can be written by others" in cache_row(CacheConfig(directory=str(there), disk_bytes=1)).found
    (tmp_path / "file").touch()
    assert "is no directory" in cache_row(CacheConfig(directory=str(tmp_path / "file"))).found
    assert cache_row(CacheConfig(directory="/proc/kv")).mark is Mark.BAD or sys.platform != "linux"


def test_downloads_go_where_the_hub_keeps_them(tmp_path: Path) -> None:
    assert str(tmp_path / "hub") in hub_cache_row({"HF_HOME": str(tmp_path)}).found
    assert str(tmp_path / "x") in hub_cache_row({"HF_HUB_CACHE": str(tmp_path / "x")}).found


CPU = {
    "device": "cpu",
    "kind": "cpu",
    "blas": "OpenBLAS 0.3.21 (2 threads)",
    "memory": 8 << 30,
    "memory_source": "memory of the machine",
    "kv_share": 0.7,
}


def test_the_device_is_told_with_what_would_make_it_faster() -> None:
    told = device.rows(CPU, platform="linux", has_nvidia=False)
    assert [row.mark for row in told] == [Mark.OK] * 3
    assert told[2].found == "8.0 GiB (memory of the machine); 70.0 % of what weights leave is for KV"
    slow = device.rows(CPU | {"blas": "reference"}, platform="linux", has_nvidia=True)
    assert [row.mark for row in slow] == [Mark.WARN, Mark.WARN, Mark.OK]
    assert "setup-cuda" in slow[0].advice and "OpenBLAS" in slow[1].advice
    gpu = CPU | {"kind": "cuda", "blas": "reference", "memory": 0, "memory_source": "a device that does not say"}
    assert [row.mark for row in device.rows(gpu, platform="linux", has_nvidia=True)] == [Mark.OK, Mark.OK, Mark.WARN]
    assert [row.mark for row in device.rows({"error": "no driver"}, platform="linux")] == [Mark.BAD]
    assert [row.mark for row in device.rows({"blas_error": "none"}, platform="linux")] == [Mark.BAD]


TINY = {
    "directory": "/m",
    "architecture": "qwen3",
    "file_bytes": 100 << 20,
    "weight_bytes": 200 << 20,
    "dtype": "float32",
    "context": 8192,
    "has_template": True,
    "template_error": "",
    "calls": "json_tools",
    "reasons": False,
    "warnings": [],
}


def test_a_model_is_held_against_the_memory() -> None:
    files, weights, tokenizer = model.rows_of(TINY, CPU)
    assert {files.mark, weights.mark, tokenizer.mark} == {Mark.OK}
    assert weights.found == "200.0 MiB as float32 (100.0 MiB in the files) of 8.0 GiB"
    marks = {share: model.rows_of(TINY, {"memory": int((200 << 20) / share)})[1].mark for share in (0.7, 0.9, 1.1)}
    assert marks == {0.7: Mark.OK, 0.9: Mark.WARN, 1.1: Mark.BAD}
    assert model.rows_of(TINY, {})[1].mark is Mark.OK


def test_what_a_load_would_refuse_or_do_without_is_told() -> None:
    [row] = model.rows_of({"refused": "/m/config.json: has no model_type"}, CPU)
    assert row.mark is Mark.BAD and row.found == "would be refused: /m/config.json: has no model_type"
    absent = "hub repository 'a/b' is not in the cache, and the hub cannot be reached (OfflineModeIsEnabled)"
    [row] = model.rows_of({"refused": absent}, CPU)
    assert row.mark is Mark.WARN and row.found == "not on this machine yet"
    files, _, tokenizer = model.rows_of(TINY | {"has_template": False, "calls": "", "warnings": ["DraftModel"]}, CPU)
    assert (files.mark, files.advice) == (Mark.WARN, "DraftModel.")
    assert tokenizer.found == "no chat template, no known form of tool calls"


def test_a_program_that_ends_or_hangs_is_a_reason() -> None:
    with pytest.raises(NotKnown, match="exit code 1: .*No module named"):
        ask("no_such_process", environment={})
    with pytest.raises(NotKnown, match="no answer within"):
        ask("device_process", "auto", environment={}, seconds=0.01)
