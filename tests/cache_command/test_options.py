"""The arguments of the command."""

from pathlib import Path

import pytest

from backend.cache_command.options import Options, WorkerOptions, parse_options


def worker(*arguments: str, **environment: str) -> WorkerOptions:
    where = parse_options(arguments, environment).where
    assert isinstance(where, WorkerOptions)
    return where


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, **environment: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments, environment)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_address_is_the_workers_own(tmp_path: Path) -> None:
    assert worker("list").address.target == "127.0.0.1:50051"
    assert worker("list", MLX_WORKER_ADDR="localhost:1").address.target == "localhost:1"
    assert worker("list", "--addr", f"unix:{tmp_path}/s", MLX_WORKER_ADDR="x:1").address.target == f"unix:{tmp_path}/s"


def test_the_token_comes_from_where_the_worker_has_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("c\n")
    assert worker("list").token == ""
    assert worker("list", LOCALAI_GRPC_AUTH_TOKEN="a", MLX_WORKER_TOKEN="b").token == "a"
    assert worker("list", MLX_WORKER_TOKEN="b").token == "b"
    assert worker("list", "--token-file", str(tmp_path / "token"), MLX_WORKER_TOKEN="b").token == "c"
    assert worker("list", MLX_WORKER_TOKEN_FILE=str(tmp_path / "token")).token == "c"


def test_the_tenants_salt_comes_from_a_file_or_the_environment_and_never_goes_with_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "salt").write_text("s\n")
    file = ("--salt-file", str(tmp_path / "salt"))
    assert worker("list").salt == ""
    assert worker("list", MLX_WORKER_CACHE_SALT="e").salt == "e"
    assert worker("list", *file, MLX_WORKER_CACHE_SALT="e").salt == "s"
    assert worker("clear", "--everything", MLX_WORKER_CACHE_SALT="e").salt == ""
    assert "--salt-file" in refusal(capsys, "clear", "--everything", *file)


def test_a_pin_may_take_longer_than_other_calls() -> None:
    assert worker("list").timeout_s == 30
    assert worker("pin", "n", "--prompt", "p").timeout_s == 600
    assert worker("pin", "n", "--prompt", "p", "--timeout", "2").timeout_s == 2


def test_each_verb_has_its_names() -> None:
    def told(*arguments: str) -> Options:
        return parse_options(arguments, {})

    assert told("list").names == told("show").names == ()
    assert told("show", "a").names == ("a",)
    assert told("rm", "a", "b").names == ("a", "b")
    pin = told("pin", "a", "--prompt", "")
    assert (pin.names, pin.prefix.prompt) == (("a",), "")
    assert told("verify", "--dir", "d", "--quarantine").quarantine
    assert told("rm", "a", "--dir", "d", "--namespace", "7f").namespace == "7f"
    assert told("clear", "--yes").yes and not told("clear").yes
    assert told("list", "--dir", "d").where == Path("d")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "VERB"),
        (["ls"], "ls"),
        (["rm"], "NAME"),
        (["list", "--addr", "here"], "host:port"),
        (["list", "--addr", "h:1", "--dir", "d"], "not allowed with"),
        (["list", "--js"], "--js"),
        (["clear", "--all-models"], "go with --dir"),
        (["clear", "--model", "7f"], "go with --dir"),
        (["clear", "--dir", "d", "--model", "7f", "--all-models"], "not allowed with"),
        (["list", "--token-file", "/no/file"], "/no/file"),
        (["list", "--salt-file", "/no/file"], "/no/file"),
        (["list", "--tls-ca", "/no/file"], "/no/file"),
        (["list", "--timeout", "0"], "--timeout"),
        (["list", "--timeout", "nan"], "--timeout"),
        (["list", "--dir", "d", "--token-file", "t"], "--token-file is of a worker"),
        (["pin", "n"], "required"),
        (["pin", "n", "--prompt-file", "/no/file"], "/no/file"),
        (["pin", "n", "--messages-file", "/no/file"], "/no/file"),
        (["pin", "n", "--prompt", "p", "--tools-file", "t"], "--messages-file"),
        (["pin", "n", "--prompt", "p", "--dir", "d"], "needs a worker"),
        (["rm", "n", "--namespace", "7f"], "--dir"),
        (["verify"], "--dir"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refusal(capsys, *arguments)


def test_a_token_that_no_call_can_carry_is_refused_without_being_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for token in ("gehe\u00efm", "two\nlines"):
        told = refusal(capsys, "list", MLX_WORKER_TOKEN=token)
        assert "token" in told and token not in told
