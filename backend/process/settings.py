"""Every setting of the process: its flag, its environment variables, its default, in one table.

A flag wins over the environment; of several variables the first that is set and not empty wins.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from backend import __version__
from backend.config import TOKEN_VARIABLES, CacheConfig, EngineConfig, LogFormat, MetricsConfig, ServerConfig
from backend.core.request import Json
from backend.process.commands import listed
from backend.process.durations import seconds_of
from backend.translate import option_values as read
from backend.translate.options import LoadDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process was told."""

    server: ServerConfig
    metrics: MetricsConfig
    loads: LoadDefaults
    blas: str
    log_level: str
    log_format: LogFormat


@dataclass(frozen=True, slots=True)
class _Setting:
    """One row. `parse` takes text and raises ValueError or OptionValueError; `default` is text that it takes."""

    flag: str
    parse: Callable[[str], Any]
    default: str
    help: str
    also: tuple[str, ...] = ()
    is_switch: bool = False

    @property
    def key(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        return (f"MLX_WORKER_{self.key.upper()}", *self.also)


def _duration(value: Json) -> float:
    return seconds_of(str(value))


def _interval(text: str) -> float:
    seconds = seconds_of(text)
    if not 0.1 <= seconds <= 3600:
        raise ValueError("must be from 100ms to 1h")
    return seconds


def _message_size(text: str) -> int:
    size = read.size(text)
    # gRPC takes the number as an int, and with 0 no call at all could be made.
    if not 1 << 10 <= size < 1 << 31:
        raise ValueError("must be at least 1KiB and less than 2GiB")
    return size


def _port(text: str) -> int | None:
    if text.lower() == "auto":
        return 0
    port: int | None = read.off_or(read.integer(1, 65535))(text)
    return port


def _ip_address(text: str) -> str:
    return str(ip_address(text))


def _directories(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(os.pathsep)))


_size_or_auto, _count_or_auto, _flag_or_auto = map(read.auto_or, (read.size, read.integer(0), read.flag))
_duration_or_off = read.off_or(_duration)
_bits_or_off = read.off_or(read.one_of_numbers(4, 8))

_ENGINE, _CACHE, _METRICS = EngineConfig(), CacheConfig(), MetricsConfig()

SETTINGS: Final = (
    _Setting("--addr", str, "127.0.0.1:50051", "where to listen: HOST:PORT (port 0: any free one) or unix:PATH"),
    _Setting("--token-file", str, "", "file with the bearer token that every call must carry"),
    _Setting("--reflection", _flag_or_auto, "auto", "gRPC server reflection: auto (local addresses only), on, off"),
    _Setting("--tls-certificate", str, "", "PEM file; with --tls-key, serve TLS"),
    _Setting("--tls-key", str, "", "PEM file of the certificate's key"),
    _Setting("--tls-client-ca", str, "", "PEM file; clients must show a certificate that one in it has signed"),
    _Setting("--require-tls", read.flag, "false", "refuse an address that others can reach without TLS", (), True),
    _Setting("--max-message-size", _message_size, "50MiB", "largest message, in (24MiB at most) and out"),
    _Setting("--grace", seconds_of, "10s", "time that running requests get at SIGTERM"),
    _Setting(
        "--parent-watch",
        _duration_or_off,
        "2s",
        "how often to look whether the parent process is still there, or off",
        ("LOCALAI_BACKEND_PARENT_WATCH_INTERVAL",),
    ),
    _Setting("--blas", str, "auto", "auto (OpenBLAS where installed), reference, or the path of a library"),
    _Setting(
        "--isolation",
        read.one_of("performance", "balanced", "strict"),
        _ENGINE.isolation,
        "what requests share: performance, balanced (nothing across tenants) or strict (one at a time, nothing kept)",
    ),
    _Setting("--conversation-idle", _duration_or_off, "3600s", "time after which a conversation's cache goes, or off"),
    _Setting("--max-conversations", read.integer(1, 1 << 20), str(_CACHE.max_conversations), "conversations kept"),
    _Setting("--max-rows", read.integer(1, 1024), str(_ENGINE.max_rows), "requests that decode together"),
    _Setting("--queue-size", read.integer(0), str(_ENGINE.queue_size), "requests that may wait for a row"),
    _Setting(
        "--prefill-chunk",
        read.auto_or(read.integer(1, 1 << 16)),
        "auto",
        "tokens of a prefill chunk; auto: 512 on a CPU, 2048 on a GPU",
    ),
    _Setting("--kv-bytes", _size_or_auto, "auto", "KV (live, cached, copies) at most; auto: a share of what is left"),
    _Setting("--kv-bits", _bits_or_off, "off", "keys and values of rows as codes of 4 or 8 bits, or off"),
    _Setting("--kv-group-size", read.one_of_numbers(32, 64), str(_ENGINE.kv_group_size), "features that share a scale"),
    _Setting("--quantized-kv-start", read.integer(0), "0", "tokens from which on a row with --kv-bits holds codes"),
    _Setting("--memory-share", read.number(0.01, 1), "1", "of the device's memory, where workers share a device"),
    _Setting(
        "--wired",
        read.auto_or(read.size_or_off),
        "auto",
        "bytes that the system must not page out (Apple GPUs): auto (weights and KV), off, or a size",
    ),
    _Setting(
        "--speculation",
        read.drafters,
        "auto",
        "whose guesses at tokens to come are looked at: auto (all), off, or some of ngram, cache, grammar, draft",
    ),
    _Setting("--max-draft", read.integer(1, 32), str(_ENGINE.max_draft), "guessed tokens a pass looks at, at most"),
    _Setting("--sampler", read.one_of("auto", "host", "device"), "auto", "where to sample: auto, host or device"),
    _Setting(
        "--warm-up",
        read.one_of("auto", "on", "off"),
        "auto",
        "run every kind of step once at the load: auto (on a GPU), on, off",
    ),
    _Setting("--model-idle", _duration_or_off, "off", "drop the weights after this time without a request, or off"),
    _Setting("--progress", _interval, "5s", "how often the log says how far a download, a load or a long prompt is"),
    _Setting("--watchdog", _duration_or_off, "600s", "a step that takes longer ends the process, or off"),
    _Setting("--prompt-cache-size", _count_or_auto, "auto", "cached sequences at most; 0: no cache; auto: no limit"),
    _Setting("--prompt-cache-bytes", _size_or_auto, "auto", "cached KV at most; auto: a share of what is left"),
    _Setting(
        "--prompt-cache-dir",
        str,
        "",
        "directory that keeps the prompt cache beyond the process, below where it starts; none: nowhere",
    ),
    _Setting("--prompt-cache-disk-bytes", read.size, "32GiB", "of the files there, at most"),
    _Setting(
        "--prompt-cache-disk-daily-bytes", read.off_or(read.size), "off", "written there a day at most, or off"
    ),
    _Setting("--cache-kv-bits", _bits_or_off, "off", "cached KV as codes of 4 or 8 bits, rows as they are, or off"),
    _Setting("--allow-remote-code", read.flag, "false", "let a load that asks for it run a model's code", (), True),
    _Setting(
        "--allow-files",
        _directories,
        "",
        f"directories, joined by {os.pathsep!r}, whose templates, tokenizers and adapters any load may read",
    ),
    _Setting("--metrics-port", _port, "off", "serve metrics for Prometheus on this port, auto (any free one), or off"),
    _Setting("--metrics-address", _ip_address, _METRICS.address, "IP address of the interface to serve metrics on"),
    _Setting("--log-format", read.one_of("text", "json"), "text", "lines of key=value pairs (text) or JSON (json)"),
    _Setting(
        "--log-level", read.one_of("debug", "info", "warning", "error"), "info", "debug, info, warning or error"
    ),
)  # fmt: skip


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from flags and environment; a wrong one ends the process as argparse does, with code 2."""
    parser = argparse.ArgumentParser(
        prog="mlx-worker",
        usage="mlx-worker [serve] [--addr HOST:PORT] [options]\n       mlx-worker COMMAND ...",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A gRPC worker that serves a language model with MLX, and commands around it.\n\n"
        f"commands:\n{listed()}\n\nmlx-worker COMMAND --help has what each takes; serve takes the options below.",
        epilog="The bearer token may also come from LOCALAI_GRPC_AUTH_TOKEN or MLX_WORKER_TOKEN.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    for setting in SETTINGS:
        described = f"{setting.help} (default: {setting.default or 'none'}; env {', '.join(setting.variables)})"
        # A switch is also true without a value.
        count, bare = ("?", "true") if setting.is_switch else (None, None)
        parser.add_argument(setting.flag, dest=setting.key, help=described, metavar="VALUE", nargs=count, const=bare)
    given = vars(parser.parse_args(list(arguments)))
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        source, text = _chosen(setting, given[setting.key], environment)
        try:
            values[setting.key] = setting.parse(text)
        except (ValueError, read.OptionValueError) as error:
            parser.error(f"{source}: {error}")
    # The host's switch is a variable of its own.
    if environment.get("LOCALAI_BACKEND_PARENT_WATCH", "").lower() in read.OFF and given["parent_watch"] is None:
        values["parent_watch"] = None
    try:
        return _settings(values, environment)
    except (OSError, ValueError) as error:
        parser.error(f"--token-file: {error}")


def text_of(key: str, flag: str | None, environment: Mapping[str, str]) -> str:
    """The text of one setting as a worker with this flag and environment has it; `key` is as in `max_rows`."""
    setting = next(setting for setting in SETTINGS if setting.key == key)
    return _chosen(setting, flag, environment)[1]


def _chosen(setting: _Setting, flag: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
    if flag is not None:
        return setting.flag, flag
    for name in setting.variables:
        if environment.get(name, ""):
            return name, environment[name]
    return setting.flag, setting.default


def _settings(values: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    return Settings(
        server=ServerConfig(
            address=values["addr"],
            token=token_of(values["token_file"], environment),
            max_message_bytes=values["max_message_size"],
            reflection=values["reflection"],
            require_tls=values["require_tls"],
            tls_certificate=values["tls_certificate"],
            tls_key=values["tls_key"],
            tls_client_ca=values["tls_client_ca"],
            grace_s=values["grace"],
            parent_watch_s=values["parent_watch"],
        ),
        loads=LoadDefaults(
            engine=EngineConfig(
                isolation=values["isolation"],
                max_rows=values["max_rows"],
                queue_size=values["queue_size"],
                prefill_chunk=values["prefill_chunk"],
                kv_bytes=values["kv_bytes"],
                memory_share=values["memory_share"],
                wired_bytes=values["wired"],
                sampler=values["sampler"],
                warm_up=values["warm_up"],
                model_idle_s=values["model_idle"],
                progress_s=values["progress"],
                watchdog_s=values["watchdog"],
                drafters=values["speculation"],
                max_draft=values["max_draft"],
                kv_bits=values["kv_bits"],
                kv_group_size=values["kv_group_size"],
                quantized_kv_start=values["quantized_kv_start"],
            ),
            cache=CacheConfig(
                max_sequences=values["prompt_cache_size"],
                max_bytes=values["prompt_cache_bytes"],
                kv_bits=values["cache_kv_bits"],
                # An operator means it from where the worker is started; a load means it below its ModelPath.
                directory=os.path.abspath(named) if (named := values["prompt_cache_dir"]) else "",
                disk_bytes=values["prompt_cache_disk_bytes"],
                disk_daily_bytes=values["prompt_cache_disk_daily_bytes"],
                conversation_idle_s=values["conversation_idle"],
                max_conversations=values["max_conversations"],
            ),
            allow_remote_code=values["allow_remote_code"],
            file_roots=values["allow_files"],
        ),
        metrics=MetricsConfig(port=values["metrics_port"], address=values["metrics_address"]),
        blas=values["blas"],
        log_level=values["log_level"],
        log_format=values["log_format"],
    )


def token_of(path: str, environment: Mapping[str, str]) -> str:
    """The bearer token from a file, or where there is none from the environment; empty for no token.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is empty, or no UTF-8.
    """
    if path:
        token = Path(path).read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"{path} is empty")
        return token
    return next((environment[name] for name in TOKEN_VARIABLES if environment.get(name)), "")
