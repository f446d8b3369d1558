"""Which command is meant."""

import pytest

import backend.__main__ as program
from backend.process.commands import COMMANDS, chosen


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


def test_every_command_is_one_that_is_run() -> None:
    assert {*program._MODULES, "serve", "check", "help"} == set(COMMANDS)
