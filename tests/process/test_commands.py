"""Which command is meant."""

import subprocess
import sys

import pytest

import backend.__main__ as program
from backend.process.commands import COMMANDS, chosen
from backend.process.settings import parse_settings
from tests.process.spawned import ROOT


@pytest.mark.parametrize(
    ("given", "command", "rest"),
    [
        ([], "serve", []),
        (["--addr", "127.0.0.1:0"], "serve", ["--addr", "127.0.0.1:0"]),
        (["serve", "--addr", "127.0.0.1:0"], "serve", ["--addr", "127.0.0.1:0"]),
        (["cache", "list"], "cache", ["list"]),
        (["--help"], "serve", ["--help"]),
        (["help"], "serve", ["--help"]),
        (["help", "chat"], "chat", ["--help"]),
        (["help", "help"], "serve", ["--help", "--help"]),
    ],
)
def test_the_first_word_is_the_command_and_without_one_it_serves(
    given: list[str], command: str, rest: list[str]
) -> None:
    assert chosen(given) == (command, rest)


@pytest.mark.parametrize("given", [["chta"], ["help", "chta"]])
def test_a_word_that_is_no_command_is_one_sentence(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chosen(given)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "mlx-worker: no command 'chta'; mlx-worker help lists them\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(chosen(["help"])[1], {})
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and all(f"{name} {told}" in text for name, told in COMMANDS.items())


def test_a_reader_that_leaves_and_streams_that_are_closed_end_nothing_in_a_traceback() -> None:
    command = f"{sys.executable} -m backend"
    for shell in (f"{command} bench --help | head -1", f"{command} chat --addr 127.0.0.1:1 <&- 2>&-"):
        ran = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in ran.stderr
    assert ran.returncode == 69


def test_every_command_is_one_that_is_run() -> None:
    assert {*program._MODULES, "serve", "check", "help"} == set(COMMANDS)
