"""What the process was told, by flags and environment, as the configuration that its parts take."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend import __version__
from backend.config import TOKEN_VARIABLES, CacheConfig, EngineConfig, LogFormat, MetricsConfig, ServerConfig
from backend.process.commands import listed
from backend.process.setting_table import SETTINGS
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
        source, text = setting.chosen(given[setting.key], environment)
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
