"""What the command prints and ends with, without a worker: the directory's verbs over files of fake caches."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.cache_command.command import cache
from backend.engine.conversation_files import ConversationFiles, KeptConversation
from backend.engine.name_files import KeptName, NameFiles, disk_namespace
from mlx_cache.disk import Place
from tests.mlx_cache.disk.test_tier import TEXT, stored

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    """Standard input that somebody types into."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Six files of the tenant-less, two of a tenant, and a name and a conversation of each."""
    path = tmp_path / "kv"
    stored(path, TEXT, space=disk_namespace("model", ""))
    stored(path, TEXT[:8], space=disk_namespace("model", "7e4a47"))
    names = NameFiles(Place(path))
    for tenant, n in (("", 22), ("7e4a47", 8)):
        tokens = np.array(TEXT[:n], np.int32)
        names.write("model", KeptName(tenant, "rules", tokens, 1e9))
        ConversationFiles(Place(path), str).write("model", KeptConversation(tenant, f"{n:032}", (tokens,), 1e9))
    return path


def kv_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("v1/*/*/*.kv"))


def names(directory: Path) -> int:
    return len(list(directory.glob("names/*.json")))


def conversations(directory: Path) -> int:
    return len(list(directory.glob("conversations/*.json")))


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> tuple[str, str]:
    assert cache([*map(str, arguments)], {}) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def data(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> Any:
    return json.loads(told(capsys, *arguments, "--json", code=code)[0])


def namespaces(capsys: pytest.CaptureFixture[str], directory: Path) -> tuple[str, str]:
    """Of the tenant-less, and of the tenant."""
    found = {one["files"]: one["namespace"] for one in data(capsys, "list", "--dir", directory)["namespaces"]}
    return found[6], found[2]


def test_a_directory_is_listed_by_namespace_with_its_names(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {one["files"]: one for one in data(capsys, "list", "--dir", directory)["namespaces"]}
    assert {files: (one["tokens"], one["kinds"]) for files, one in found.items()} == {
        6: (22, {"kv": 6}),
        2: (8, {"kv": 2}),
    }
    assert sum(one["bytes"] for one in found.values()) == sum(path.stat().st_size for path in kv_files(directory))
    assert [(name["name"], name["tokens"], name["tenant"]) for name in found[2]["names"]] == [("rules", 8, "7e4a47")]
    lines = told(capsys, "list", "--dir", directory)[0].splitlines()
    assert lines[0].split() == ["NAMESPACE", "FILES", "TOKENS", "SIZE", "LAST", "USED", "AGE", "NAMES"]
    assert {line[:16] for line in lines[1:3]} == {one["namespace"][:16] for one in found.values()}
    assert lines[4].split() == ["NAME", "TOKENS", "AGE", "NAMESPACE", "TENANT"]
    assert sorted(line.split()[-1] for line in lines[5:]) == ["-", "7e4a47"]


def test_a_namespace_says_when_any_of_it_was_used_last_and_when_all_of_it_was(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenantless, of_tenant = namespaces(capsys, directory)
    now = time.time()
    for number, file in enumerate(sorted((directory / "v1" / tenantless).glob("*/*.kv"))):
        os.utime(file, (now - 7200 - 3600 * number,) * 2)
    for file in (directory / "v1" / of_tenant).glob("*/*.kv"):
        os.utime(file, (now - 3 * 86400,) * 2)
    lines = told(capsys, "list", "--dir", directory)[0].splitlines()
    assert [line.split()[-5:-1] for line in lines[1:3]] == [["2", "h", "7", "h"], ["3", "d", "3", "d"]]
    assert lines[1].startswith(tenantless[:16])


def test_a_namespace_is_shown_by_how_it_begins_and_the_directory_as_a_whole(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, of_tenant = namespaces(capsys, directory)
    shown = told(capsys, "show", of_tenant[:12].upper(), "--dir", directory)[0]
    assert of_tenant in shown and "2 (2 .kv)" in shown and "rules (8 tokens)" in shown
    whole = data(capsys, "show", "--dir", directory)
    assert (whole["namespaces"], whole["files"], whole["names"], whole["quarantined"]) == (2, 8, 2, 0)
    for beginning in ("xyz", "no-such"):
        assert beginning in told(capsys, "show", beginning, "--dir", directory, code=1)[1]


def test_a_beginning_of_several_namespaces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(17):
        stored(tmp_path / "kv", TEXT[:4], space=str(number))
    firsts = [one["namespace"][0] for one in data(capsys, "list", "--dir", tmp_path / "kv")["namespaces"]]
    twice = next(first for first in firsts if firsts.count(first) > 1)
    assert "namespaces begin like this" in told(capsys, "rm", twice, "--dir", tmp_path / "kv", code=1)[1]
    assert len(kv_files(tmp_path / "kv")) == 17


def test_rm_takes_a_namespace_with_its_names_and_leaves_the_others(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, of_tenant = namespaces(capsys, directory)
    out, err = told(capsys, "rm", of_tenant[:10], "nothing", "--dir", directory, code=1)
    assert "removed 2 files" in out and "nothing" in err
    assert (len(kv_files(directory)), names(directory), conversations(directory)) == (6, 1, 1)


def test_rm_takes_a_name_and_asks_which_where_several_have_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, of_tenant = namespaces(capsys, directory)
    assert "--namespace" in told(capsys, "rm", "rules", "--dir", directory, code=1)[1]
    assert names(directory) == 2
    told(capsys, "rm", "rules", "--namespace", of_tenant[:12], "--dir", directory)
    told(capsys, "rm", "rules", "--dir", directory)
    assert (len(kv_files(directory)), names(directory)) == (8, 0)


def test_clear_wants_a_yes(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["clear", "--dir", str(directory)]
    assert cache(arguments, {}, stdin=io.StringIO("y\n")) == 2
    assert "--yes" in capsys.readouterr().err
    for typed in ("\n", "no\n", ""):
        assert cache(arguments, {}, stdin=Terminal(typed)) == 1
    assert "nothing was cleared" in capsys.readouterr().err
    assert len(kv_files(directory)) == 8
    assert cache(arguments, {}, stdin=Terminal("Yes\n")) == 0
    assert (kv_files(directory), names(directory), conversations(directory)) == ([], 0, 0)
    assert "removed 8 files" in capsys.readouterr().out
    assert told(capsys, "list", "--dir", directory)[0] == "nothing is kept\n"
    told(capsys, "clear", "--yes", "--dir", directory)


def test_clear_takes_one_models_and_all_models_when_that_is_said(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {folder[:8] for folder in namespaces(capsys, directory)}
    assert len(ours) == 1
    stored(directory, TEXT[:4], space=disk_namespace("other", ""))
    NameFiles(Place(directory)).write("other", KeptName("", "rules", np.array(TEXT[:4], np.int32), 1e9))
    (directory / "names" / "broken.json").write_text("5")
    refused = told(capsys, "clear", "--yes", "--dir", directory, code=1)[1]
    assert "2 models" in refused and "--all-models" in refused and ours.pop() in refused
    assert "begin like this" in told(capsys, "clear", "--yes", "--model", "xyz", "--dir", directory, code=1)[1]
    other = next(
        one["namespace"] for one in data(capsys, "list", "--dir", directory)["namespaces"] if one["files"] == 1
    )
    told(capsys, "clear", "--yes", "--model", other[:8].upper(), "--dir", directory)
    assert (len(kv_files(directory)), names(directory), conversations(directory)) == (8, 3, 2)
    stored(directory, TEXT[:4], space=disk_namespace("other", ""))
    told(capsys, "clear", "--yes", "--all-models", "--dir", directory)
    assert (kv_files(directory), names(directory), conversations(directory)) == ([], 0, 0)


def test_clear_says_what_it_could_not_remove(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kv_files(directory)[0]
    kept.unlink()
    kept.mkdir()
    assert "1 still there" in told(capsys, "clear", "--yes", "--dir", directory, code=1)[1]


def test_verify_finds_a_flipped_byte_and_a_broken_name_and_puts_the_file_aside(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "8 files" in told(capsys, "verify", "--dir", directory)[0]
    bad = kv_files(directory)[3]
    content = bytearray(bad.read_bytes())
    content[-1] ^= 1
    bad.write_bytes(content)
    name = next(directory.glob("names/*.json"))
    name.write_text("5")
    for _ in range(2):
        found = data(capsys, "verify", "--dir", directory, code=1)
        assert [(one["file"].rpartition("/")[2], one["why"]) for one in found["bad"]] == [
            (bad.name, "body damaged: its checksum is wrong"),
            (name.name, "not what was written"),
        ]
    out = told(capsys, "verify", "--quarantine", "--dir", directory, code=1)[0]
    assert bad.name in out and out.endswith("2 bad\n")
    assert not bad.exists() and len(list(directory.glob("quarantine/*"))) == 1
    name.unlink()
    assert "7 files" in told(capsys, "verify", "--dir", directory)[0]


@pytest.mark.parametrize("verb", [["list"], ["show"], ["rm", "x"], ["clear", "--yes"], ["verify"]])
def test_a_directory_that_no_worker_has_used_is_neither_made_nor_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, words in (("none", "No such file"), ("empty", "no worker has kept"), ("file", "Not a directory")):
        out, err = told(capsys, *verb, "--dir", tmp_path / name, code=1)
        assert words in err and not out and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


def test_a_directory_open_to_others_is_refused_in_a_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory.chmod(0o777)
    assert "written by others" in told(capsys, "list", "--dir", directory, code=1)[1]


def test_where_no_worker_listens_the_code_says_so(socket_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys, "list", "--addr", f"unix:{socket_folder}/none.sock", code=69)
    assert not out and "no answer from a worker" in err and len(err.splitlines()) == 1


def test_a_text_that_no_call_can_carry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "UTF-8" in told(capsys, "pin", "n", "--prompt", "\udcff", "--addr", "127.0.0.1:1", code=2)[1]


def test_a_reader_that_has_gone_is_no_fault(directory: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "backend", "cache", "list", "--dir", str(directory)]
    ended = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_stream_that_the_shell_has_closed_is_no_fault(directory: Path, closed: str) -> None:
    command = [sys.executable, "-m", "backend", "cache", "clear", "--dir", str(directory)]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command]
    ended = subprocess.run(shell, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    ended = subprocess.run([*shell, "--yes"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr


def test_neither_the_arguments_nor_a_directory_need_mlx(directory: Path) -> None:
    program = (
        "import sys; from backend.cache_command.command import cache;"
        f"code = cache(['list', '--dir', {str(directory)!r}], {{}});"
        "print(code, sorted({'mlx', 'mlx_lm', 'grpc', 'transformers'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "0 []", ran.stderr
