"""The arguments of `mlx-worker bench`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.bench.plan import Lengths, Load
from backend.client.connection import Connection, connection_of
from backend.client.reached import Where, add_where_arguments, where_of
from backend.process.durations import seconds_of
from backend.process.settings import token_of
from backend.rpc.address import AddressError

MOST_REQUESTS: Final = 100_000
MOST_STREAMS: Final = 1024
_OPEN_STREAMS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is asked of whom.

    Attributes:
        load: Of what kind the requests are, unless a trace says it.
        scale, speed: Of the trace; `speed` None sends each request as soon as a stream is free.
        beside: Another server of the same wire, or None.
        beside_http: The URL of one that speaks OpenAI's HTTP; empty for none.
        rounds: Parts of the plan, after each of which another server has its turn.
        fresh: Whether texts are others than those of any other run.
    """

    where: Where
    load: Load
    streams: int
    seconds: float
    trace: Path | None
    scale: float
    speed: float | None
    beside: Connection | None
    beside_http: str
    http_model: str
    http_token: str
    as_chat: bool
    rounds: int
    warm_up: int
    fresh: bool
    json: Path | None

    @property
    def asked(self) -> dict[str, Any]:
        """What a reader of the figures has to know."""
        load = self.load
        shared = f"{load.shared_share:g} of {load.shared_tokens} tokens" if load.shared_share else "none"
        lengths: dict[str, Any] = {
            "prompt_tokens": str(load.prompt),
            "answer_tokens": str(load.answer),
            "rate": load.rate,
            "seed": load.seed,
            "shared": shared,
        }
        if self.trace is not None:
            lengths = {"trace": self.trace.name, "scale": self.scale, "speed": self.speed}
        return {"streams": self.streams, "requests": load.requests, "seconds": self.seconds, **lengths}


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> BenchOptions:
    """Options from arguments and environment; a wrong one ends the process as argparse does, with code 2."""
    parser = _parser()
    given = parser.parse_args(list(arguments))
    try:
        return _options(given, environment)
    except (ValueError, OSError, AddressError) as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-worker bench",
        allow_abbrev=False,
        description="Measure a worker under load, one that runs or one started for it, alone or beside others.",
        epilog="Exit code 0, 1 when a request failed, 2 for wrong arguments, 69 when a server does not answer, "
        "130 when it was interrupted; what was measured by then is shown all the same.",
    )
    add_where_arguments(parser)
    parser.add_argument(
        "--streams", type=_whole(1, MOST_STREAMS), help="requests at a time (default: 4, or 256 by the clock)"
    )
    parser.add_argument("--requests", type=_whole(1, MOST_REQUESTS), default=32, help="how many in all (default: 32)")
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="of each server, at most (default: 60)")
    parser.add_argument("--rate", type=_number(1e-3, 1e4), help="arrivals a second, at random times (Poisson)")
    parser.add_argument("--prompt-tokens", type=_lengths, default=Lengths(256, 256), help="N or N-M (default: 256)")
    parser.add_argument("--answer-tokens", type=_lengths, default=Lengths(64, 64), help="N or N-M (default: 64)")
    parser.add_argument("--shared-share", type=_number(0, 1), default=0.0, help="of the requests, as many begin alike")
    parser.add_argument("--shared-tokens", type=_whole(1, 1 << 20), default=128, help="so many tokens (default: 128)")
    parser.add_argument("--shared-prefixes", type=_whole(1, 4096), default=1, help="in so many ways (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="replay it in place of drawn requests")
    parser.add_argument("--scale", type=_number(1e-4, 100), default=1.0, help="multiplies the trace's lengths")
    parser.add_argument("--speed", type=_number(1e-3, 1e6), help="divides its times (default: as fast as can be)")
    parser.add_argument("--api", choices=("raw", "chat"), default="raw", help="prompts as they are, or as messages")
    parser.add_argument("--keep-cache", action="store_true", help="the same texts in every run: what is cached is used")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--beside", metavar="ADDR", help="measure this server of the same wire in turn with the worker")
    other.add_argument("--beside-http", metavar="URL", default="", help="the same, of one that speaks OpenAI's HTTP")
    parser.add_argument("--http-model", default="", metavar="NAME", help="what it calls the model (default: its first)")
    parser.add_argument("--http-token-file", default="", metavar="FILE", help="with its bearer token")
    parser.add_argument("--rounds", type=_whole(1, 100), default=4, help="turns of each, beside another (default: 4)")
    parser.add_argument("--warm-up", type=_whole(0, 1000), default=1, help="requests before, not measured (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    return parser


def _options(given: argparse.Namespace, environment: Mapping[str, str]) -> BenchOptions:
    where = where_of(given, environment)
    timed = given.rate is not None or (given.trace is not None and given.speed is not None)
    return BenchOptions(
        where=where,
        load=Load(
            requests=given.requests,
            prompt=given.prompt_tokens,
            answer=given.answer_tokens,
            seed=given.seed,
            rate=given.rate,
            shared_share=given.shared_share,
            shared_tokens=given.shared_tokens,
            shared_prefixes=given.shared_prefixes,
        ),
        streams=given.streams or (_OPEN_STREAMS if timed else 4),
        seconds=given.seconds,
        trace=given.trace,
        scale=given.scale,
        speed=given.speed,
        beside=_beside(given, environment),
        beside_http=given.beside_http,
        http_model=given.http_model,
        http_token=token_of(given.http_token_file, {}),
        as_chat=given.api == "chat",
        rounds=given.rounds if given.beside or given.beside_http else 1,
        warm_up=given.warm_up,
        fresh=not given.keep_cache,
        json=_writable(given.json),
    )


def _writable(file: Path | None) -> Path | None:
    """The file, once it is known that it can be written at the end: a run may take hours. It stays as it was."""
    if file is None or (file.exists() and not file.is_file() and not file.is_dir()):
        return file  # what is no file, such as a pipe, takes no trial
    is_new = not file.exists()
    try:
        with file.open("a"):
            pass
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror}") from None
    if is_new:
        file.unlink()
    return file


def _beside(given: argparse.Namespace, environment: Mapping[str, str]) -> Connection | None:
    """With the token and the trust of the worker: a server of the same wire is one of the same house."""
    if given.beside is None:
        return None
    there = argparse.Namespace(addr=given.beside, token_file=given.token_file, tls_ca=given.tls_ca)
    return connection_of(there, environment)


def _whole(least: int, most: int) -> Any:
    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}")
        return value

    return read


def _number(least: float, most: float) -> Any:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:g}")
        return value

    return read


def _seconds(text: str) -> float:
    seconds = seconds_of(text)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("must be above 0 and a day at most")
    return seconds


def _lengths(text: str) -> Lengths:
    least, _, most = text.partition("-")
    lengths = Lengths(int(least), int(most or least))
    if not 1 <= lengths.least <= lengths.most <= 1 << 20:
        raise argparse.ArgumentTypeError("must be N or N-M, of at least 1 token")
    return lengths
