"""Every setting of the process: its flag, its environment variables, its default, in one table.

A flag wins over the environment; of several variables the first that is set and not empty wins.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from backend.config import CacheConfig, EngineConfig, MetricsConfig
from backend.core.request import Json
from backend.process.durations import seconds_of
from backend.translate import option_values as read


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. `parse` takes text and raises ValueError or OptionValueError; `default` is text that it takes.

    Attributes:
        also: Environment variables that count besides `MLX_WORKER_` and the key.
        is_switch: The flag alone is `true`.
    """

    flag: str
    parse: Callable[[str], Any]
    default: str
    help: str
    also: tuple[str, ...] = ()
    is_switch: bool = False

    @property
    def key(self) -> str:
        """Its name, as in `max_rows`."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        """Its environment variables, the one that wins first."""
        return (f"MLX_WORKER_{self.key.upper()}", *self.also)

    def chosen(self, flag: str | None, environment: Mapping[str, str]) -> tuple[str, str]:
        """Where its text comes from, the flag's name or a variable's, and the text."""
        if flag is not None:
            return self.flag, flag
        for name in self.variables:
            if environment.get(name, ""):
                return name, environment[name]
        return self.flag, self.default


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
    Setting("--addr", str, "127.0.0.1:50051", "where to listen: HOST:PORT (port 0: any free one) or unix:PATH"),
    Setting("--token-file", str, "", "file with the bearer token that every call must carry"),
    Setting("--reflection", _flag_or_auto, "auto", "gRPC server reflection: auto (local addresses only), on, off"),
    Setting("--tls-certificate", str, "", "PEM file; with --tls-key, serve TLS"),
    Setting("--tls-key", str, "", "PEM file of the certificate's key"),
    Setting("--tls-client-ca", str, "", "PEM file; clients must show a certificate that one in it has signed"),
    Setting("--require-tls", read.flag, "false", "refuse an address that others can reach without TLS", (), True),
    Setting("--max-message-size", _message_size, "50MiB", "largest message, in (12MiB at most) and out"),
    Setting("--grace", seconds_of, "10s", "time that running requests get at SIGTERM"),
    Setting(
        "--parent-watch",
        _duration_or_off,
        "2s",
        "how often to look whether the parent process is still there, or off",
        ("LOCALAI_BACKEND_PARENT_WATCH_INTERVAL",),
    ),
    Setting("--blas", str, "auto", "auto (OpenBLAS where installed), reference, or the path of a library"),
    Setting(
        "--isolation",
        read.one_of("performance", "balanced", "strict"),
        _ENGINE.isolation,
        "what requests share: performance, balanced (nothing across tenants) or strict (one at a time, nothing kept)",
    ),
    Setting("--conversation-idle", _duration_or_off, "3600s", "time after which a conversation's cache goes, or off"),
    Setting("--max-conversations", read.integer(1, 1 << 20), str(_CACHE.max_conversations), "conversations kept"),
    Setting("--max-rows", read.integer(1, 1024), str(_ENGINE.max_rows), "requests that decode together"),
    Setting("--queue-size", read.integer(0), str(_ENGINE.queue_size), "requests that may wait for a row"),
    Setting(
        "--prefill-chunk",
        read.auto_or(read.integer(1, 1 << 16)),
        "auto",
        "tokens of a prefill chunk; auto: 512 on a CPU, 2048 on a GPU",
    ),
    Setting("--kv-bytes", _size_or_auto, "auto", "KV (live, cached, copies) at most; auto: a share of what is left"),
    Setting("--kv-bits", _bits_or_off, "off", "keys and values of rows as codes of 4 or 8 bits, or off"),
    Setting("--kv-group-size", read.one_of_numbers(32, 64), str(_ENGINE.kv_group_size), "features that share a scale"),
    Setting("--quantized-kv-start", read.integer(0), "0", "tokens from which on a row with --kv-bits holds codes"),
    Setting("--memory-share", read.number(0.01, 1), "1", "of the device's memory, where workers share a device"),
    Setting(
        "--wired",
        read.auto_or(read.size_or_off),
        "auto",
        "bytes that the system must not page out (Apple GPUs): auto (weights and KV), off, or a size",
    ),
    Setting(
        "--speculation",
        read.drafters,
        "auto",
        "whose guesses at tokens to come are looked at: auto (all), off, or some of ngram, cache, grammar, draft",
    ),
    Setting("--max-draft", read.integer(1, 32), str(_ENGINE.max_draft), "guessed tokens a pass looks at, at most"),
    Setting("--sampler", read.one_of("auto", "host", "device"), "auto", "where to sample: auto, host or device"),
    Setting(
        "--warm-up",
        read.one_of("auto", "on", "off"),
        "auto",
        "run every kind of step once at the load: auto (on a GPU), on, off",
    ),
    Setting("--model-idle", _duration_or_off, "off", "drop the weights after this time without a request, or off"),
    Setting("--progress", _interval, "5s", "how often the log says how far a download, a load or a long prompt is"),
    Setting("--watchdog", _duration_or_off, "600s", "a step that takes longer ends the process, or off"),
    Setting("--prompt-cache-size", _count_or_auto, "auto", "cached sequences at most; 0: no cache; auto: no limit"),
    Setting("--prompt-cache-bytes", _size_or_auto, "auto", "cached KV at most; auto: a share of what is left"),
    Setting(
        "--prompt-cache-dir",
        str,
        "",
        "directory that keeps the prompt cache beyond the process, below where it starts; none: nowhere",
    ),
    Setting("--prompt-cache-disk-bytes", read.size, "32GiB", "of the files there, at most"),
    Setting(
        "--prompt-cache-disk-daily-bytes", read.off_or(read.size), "off", "written there a day at most, or off"
    ),
    Setting("--cache-kv-bits", _bits_or_off, "off", "cached KV as codes of 4 or 8 bits, rows as they are, or off"),
    Setting("--allow-remote-code", read.flag, "false", "let a load that asks for it run a model's code", (), True),
    Setting(
        "--allow-files",
        _directories,
        "",
        f"directories, joined by {os.pathsep!r}, whose templates, tokenizers and adapters any load may read",
    ),
    Setting("--metrics-port", _port, "off", "serve metrics for Prometheus on this port, auto (any free one), or off"),
    Setting("--metrics-address", _ip_address, _METRICS.address, "IP address of the interface to serve metrics on"),
    Setting("--log-format", read.one_of("text", "json"), "text", "lines of key=value pairs (text) or JSON (json)"),
    Setting(
        "--log-level", read.one_of("debug", "info", "warning", "error"), "info", "debug, info, warning or error"
    ),
)  # fmt: skip


def text_of(key: str, flag: str | None, environment: Mapping[str, str]) -> str:
    """The text of one setting as a worker with this flag and environment has it; `key` is as in `max_rows`."""
    setting = next(setting for setting in SETTINGS if setting.key == key)
    return setting.chosen(flag, environment)[1]
