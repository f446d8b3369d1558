"""The commands of docs/grpcurl.md, run in order against a fresh worker: answers have the shapes that are shown."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.worker import ROOT, Worker

PAGE = (ROOT / "docs" / "grpcurl.md").read_text()
ADDRESS = "127.0.0.1:50051"
BLOCK = re.compile(r"^```console\n\$ (.*?)\n```$", re.MULTILINE | re.DOTALL)
GRPCURL = shutil.which("grpcurl") or shutil.which("grpcurl", path=f"{ROOT}/build/bin:{Path.home()}/go/bin")
COMMAND_SECONDS = 60


def blocks() -> list[tuple[str, str]]:
    """Each command, as a shell takes it, and what the page shows below it."""
    found: list[tuple[str, str]] = []
    for text in BLOCK.findall(PAGE):
        lines = text.split("\n")
        upto = next(n for n in range(1, len(lines) + 1) if _is_whole("\n".join(lines[:n])))
        found.append(("\n".join(lines[:upto]), "\n".join(lines[upto:])))
    return found


def _is_whole(command: str) -> bool:
    return command.count("'") % 2 == 0 and not command.endswith("\\")


def documents(text: str) -> Iterator[Any]:
    """The JSON values of an answer, one after the other; lines of dots stand for some that are left out."""
    decoder = json.JSONDecoder()
    text = "\n".join(line for line in text.split("\n") if line.strip() != "...").strip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].strip()


def assert_has(answer: Any, shown: Any, where: str) -> None:
    """Every key that is shown is there with a value of its kind; a truth, and a word in capitals, is the same."""
    assert type(answer) is type(shown), (where, answer, shown)
    if isinstance(shown, dict):
        for key, value in shown.items():
            assert key in answer, (where, key, sorted(answer))
            assert_has(answer[key], value, f"{where}.{key}")
    elif isinstance(shown, list):
        assert bool(answer) == bool(shown), where
        for value in shown[:1]:
            assert_has(answer[0], value, f"{where}[0]")
    elif isinstance(shown, bool) or (isinstance(shown, str) and shown.isupper()):
        assert answer == shown, where


def test_every_method_is_on_the_page() -> None:
    services = pb.DESCRIPTOR.services_by_name.values()
    methods = {f"{service.full_name}/{method.name}" for service in services for method in service.methods}
    called = {command.split()[-1] for command, _ in blocks()}
    assert methods <= called
    assert "grpc.health.v1.Health/Check" in called


@pytest.mark.slow
@pytest.mark.skipif(GRPCURL is None, reason="grpcurl is not installed (make grpcurl): docs/grpcurl.md was not run")
def test_every_command_answers_as_the_page_shows() -> None:
    assert GRPCURL is not None
    with Worker() as worker:
        for command, shown in blocks():
            # Zeros are left out of an answer by default, and what is zero changes from run to run.
            run_as = command.replace("grpcurl ", f"{GRPCURL} -emit-defaults ", 1).replace(ADDRESS, worker.address)
            ended = subprocess.run(
                run_as, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS
            )
            if shown.startswith("ERROR:"):
                assert ended.returncode != 0, command
                assert ended.stderr.splitlines()[:2] == shown.splitlines()[:2], (command, ended.stderr)
                continue
            assert ended.returncode == 0, (command, ended.stderr)
            if not shown.startswith("{"):
                assert shown.splitlines()[0] in ended.stdout.splitlines(), (command, ended.stdout)
                continue
            answers, expected = list(documents(ended.stdout)), list(documents(shown))
            assert answers and (len(expected) == 1) == (len(answers) == 1), command
            assert_has(answers[0], expected[0], command)
            assert_has(answers[-1], expected[-1], command)
