"""Flags, environment, defaults."""

from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig, MetricsConfig, ServerConfig
from backend.process.setting_table import SETTINGS
from backend.process.settings import Settings, parse_settings


def settings(*arguments: str, **environment: str) -> Settings:
    return parse_settings(arguments, environment)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, **environment: str) -> str:
    with pytest.raises(SystemExit) as ended:
        settings(*arguments, **environment)
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_without_flags_the_defaults_are_those_of_the_configuration() -> None:
    told = settings()
    assert told.server == ServerConfig()
    assert (told.loads.engine, told.loads.cache) == (EngineConfig(), CacheConfig())
    assert (told.blas, told.loads.allow_remote_code) == ("auto", False)


def test_an_address_is_taken_with_a_space_and_with_an_equals_sign() -> None:
    assert settings("--addr", "127.0.0.1:1").server.address == "127.0.0.1:1"
    assert settings("--addr=127.0.0.1:2").server.address == "127.0.0.1:2"


def test_every_setting_has_a_variable_that_does_what_its_flag_does() -> None:
    values = {
        "--addr": "127.0.0.1:7",
        "--token-file": __file__,
        "--reflection": "off",
        "--tls-certificate": "c",
        "--tls-key": "k",
        "--tls-client-ca": "a",
        "--require-tls": "true",
        "--max-message-size": "1MiB",
        "--grace": "1m",
        "--parent-watch": "off",
        "--blas": "reference",
        "--isolation": "strict",
        "--conversation-idle": "1m",
        "--max-conversations": "7",
        "--max-rows": "3",
        "--queue-size": "4",
        "--prefill-chunk": "5",
        "--kv-bytes": "6",
        "--kv-bits": "8",
        "--kv-group-size": "32",
        "--quantized-kv-start": "9",
        "--memory-share": "0.5",
        "--wired": "off",
        "--speculation": "ngram,cache",
        "--max-draft": "4",
        "--sampler": "host",
        "--warm-up": "off",
        "--model-idle": "15m",
        "--progress": "1s",
        "--watchdog": "off",
        "--prompt-cache-size": "0",
        "--prompt-cache-dir": "kv",
        "--prompt-cache-disk-bytes": "9",
        "--prompt-cache-disk-daily-bytes": "8",
        "--prompt-cache-bytes": "7",
        "--cache-kv-bits": "4",
        "--allow-remote-code": "true",
        "--allow-files": "/a:/b",
        "--metrics-port": "auto",
        "--metrics-address": "::1",
        "--log-format": "json",
        "--log-level": "debug",
    }
    assert values.keys() == {setting.flag for setting in SETTINGS}
    for setting in SETTINGS:
        by_flag = settings(f"{setting.flag}={values[setting.flag]}")
        assert by_flag != settings(), setting.flag
        for variable in setting.variables:
            assert settings(**{variable: values[setting.flag]}) == by_flag, variable


def test_a_flag_wins_over_the_environment_and_an_empty_variable_is_unset() -> None:
    assert settings("--max-rows=3", MLX_WORKER_MAX_ROWS="4").loads.engine.max_rows == 3
    assert settings(MLX_WORKER_MAX_ROWS="").loads.engine.max_rows == EngineConfig().max_rows


def test_a_switch_alone_is_true_and_takes_a_value() -> None:
    assert settings("--require-tls").server.require_tls
    assert not settings("--require-tls=false", MLX_WORKER_REQUIRE_TLS="1").server.require_tls


def test_the_hosts_token_comes_first_and_a_token_file_before_it(tmp_path: Path) -> None:
    assert settings(LOCALAI_GRPC_AUTH_TOKEN="a", MLX_WORKER_TOKEN="b").server.token == "a"
    assert settings(MLX_WORKER_TOKEN="b").server.token == "b"
    (tmp_path / "token").write_text("c\n")
    assert settings(f"--token-file={tmp_path}/token", LOCALAI_GRPC_AUTH_TOKEN="a").server.token == "c"


def test_a_token_file_that_is_missing_or_empty_never_means_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        assert "--token-file" in refusal(capsys, f"--token-file={tmp_path}/{name}")


@pytest.mark.parametrize("off", ["false", "0", "no", "off", "FALSE"])
def test_the_host_turns_the_watch_on_the_parent_off(off: str) -> None:
    assert settings(LOCALAI_BACKEND_PARENT_WATCH=off).server.parent_watch_s is None


def test_the_host_sets_the_interval_of_the_watch() -> None:
    assert settings(LOCALAI_BACKEND_PARENT_WATCH_INTERVAL="500ms").server.parent_watch_s == 0.5
    assert settings(LOCALAI_BACKEND_PARENT_WATCH_INTERVAL="3").server.parent_watch_s == 3.0
    assert settings(LOCALAI_BACKEND_PARENT_WATCH="true").server.parent_watch_s == 2.0


@pytest.mark.parametrize(
    ("argument", "name"), [("--max-rows=0", "--max-rows"), ("--grace=soon", "--grace"), ("--sampler=x", "--sampler")]
)
def test_a_wrong_value_ends_the_process_with_the_name_of_its_flag(
    capsys: pytest.CaptureFixture[str], argument: str, name: str
) -> None:
    assert name in refusal(capsys, argument)


def test_a_wrong_variable_is_named_and_so_is_an_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "MLX_WORKER_GRACE" in refusal(capsys, MLX_WORKER_GRACE="soon")
    assert "--nonsense" in refusal(capsys, "--nonsense")
    assert "--max-row" in refusal(capsys, "--max-row=3")


def test_help_explains_every_flag_with_its_default_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings("--help")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        assert f"(default: {setting.default or 'none'}; env {', '.join(setting.variables)})" in text


@pytest.mark.parametrize("text", ["0", "99ms", "2h", "off"])
def test_progress_comes_at_a_bounded_rate(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--progress: " in refusal(capsys, f"--progress={text}")


@pytest.mark.parametrize("text", ["0", "0s", "0.0", "off", "0ms"])
def test_no_time_is_off_however_it_is_written(text: str) -> None:
    told = settings(f"--watchdog={text}", f"--parent-watch={text}", f"--model-idle={text}")
    engine = told.loads.engine
    assert (engine.watchdog_s, told.server.parent_watch_s, engine.model_idle_s) == (None, None, None)


def test_the_operators_port_is_off_until_it_is_named_and_on_loopback_until_another_address_is() -> None:
    assert settings().metrics == settings("--metrics-port=0").metrics == MetricsConfig(port=None, address="127.0.0.1")
    assert settings("--metrics-port=9100").metrics.port == 9100
    assert settings("--metrics-port=auto").metrics.port == 0


@pytest.mark.parametrize("argument", ["--metrics-port=65536", "--metrics-port=http", "--metrics-address=example.com"])
def test_a_port_or_address_that_is_none_is_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert argument.partition("=")[0] in refusal(capsys, argument)


def test_a_budget_of_zero_is_none_at_all_and_not_auto() -> None:
    told = settings("--kv-bytes=0", "--prompt-cache-bytes=0")
    assert (told.loads.engine.kv_bytes, told.loads.cache.max_bytes) == (0, 0)


@pytest.mark.parametrize("size", ["0", "1000", "2GiB", "1TB"])
def test_a_message_size_with_which_no_call_could_be_made_is_refused(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--max-message-size: must be at least 1KiB" in refusal(capsys, f"--max-message-size={size}")
