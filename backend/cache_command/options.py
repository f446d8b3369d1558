"""The arguments of `mlx-worker cache`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.cache_command.prefix_files import Prefix, read_line, read_messages, read_text
from backend.client.connection import Connection, add_arguments, connection_of
from backend.rpc.address import AddressError

SALT_VARIABLE: Final = "MLX_WORKER_CACHE_SALT"
_SECONDS, _PIN_SECONDS = 30.0, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions(Connection):
    """How to call the worker, and as whom.

    Attributes:
        salt: The tenant's; empty for none.
        timeout_s: Of each call.
    """

    salt: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be done, and where.

    Attributes:
        names: Of prefixes; in a directory also beginnings of namespaces.
        where: A running worker, or a directory.
        namespace: The beginning of the namespace that a name in a directory is meant in; empty for any.
        everything: Of every tenant of the worker.
        model: How the namespaces of the directory's model begin that is meant; empty for the only one.
        all_models: Every model of the directory is meant.
    """

    verb: str
    where: WorkerOptions | Path
    names: tuple[str, ...]
    prefix: Prefix
    namespace: str
    json: bool
    everything: bool
    model: str
    all_models: bool
    yes: bool
    quarantine: bool


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Options from arguments and environment; a wrong one ends the process as argparse does, with code 2."""
    parser = _parser()
    given = parser.parse_args(list(arguments))
    try:
        _check(given)
        where = given.dir if given.dir is not None else _worker(given, environment)
        prefix = _prefix(given) if given.verb == "pin" else Prefix()
    except (ValueError, OSError, AddressError) as error:
        parser.error(str(error))
    told: Any = given.names if "names" in given else None
    return Options(
        verb=given.verb,
        where=where,
        names=tuple(told if isinstance(told, list) else filter(None, [told])),
        prefix=prefix,
        namespace=given.namespace if "namespace" in given else "",
        json=given.json,
        everything="everything" in given and given.everything,
        model=given.model if "model" in given else "",
        all_models="all_models" in given and given.all_models,
        yes="yes" in given and given.yes,
        quarantine="quarantine" in given and given.quarantine,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-worker cache",
        allow_abbrev=False,
        description="Look at a running worker's prompt cache, or at a directory of one, and change what it keeps.",
        epilog="Exit code 0 when all is well, 1 when something bad was found or the worker refused, 2 for wrong "
        "arguments, 69 when no worker answers. mlx-worker cache VERB --help has what each verb takes.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, told: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=told, description=told, allow_abbrev=False, parents=[_where()])

    add("list", "what is kept: the worker's named prefixes, or the directory's namespaces and names")
    show = add("show", "one name of the worker, or one namespace of the directory; without one, the cache's figures")
    show.add_argument("names", nargs="?", metavar="NAME", help="a name; of a directory, how a namespace begins")
    _add_pin(add("pin", "have the worker prefill a prefix and keep it under a name"))
    rm = add("rm", "let names go; of a directory also whole namespaces, by how they begin")
    rm.add_argument("names", nargs="+", metavar="NAME")
    rm.add_argument("--namespace", default="", metavar="PREFIX", help="which namespace of the directory a name is of")
    clear = add("clear", "drop all that the tenant has in the cache, or all that a model has in the directory")
    clear.add_argument("--everything", action="store_true", help="of every tenant of the worker's model")
    which = clear.add_mutually_exclusive_group()
    which.add_argument("--model", default="", metavar="DIGITS", help="of a directory: how a model's namespaces begin")
    which.add_argument("--all-models", action="store_true", help="of a directory: whatever model it is of")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    verify = add("verify", "read every file of the directory and its checksums, and say which are bad and why")
    verify.add_argument("--quarantine", action="store_true", help="put bad files of KV aside, in its quarantine")
    return parser


def _where() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    place = common.add_mutually_exclusive_group()
    add_arguments(common, address=place)
    place.add_argument("--dir", type=Path, help="a directory that workers keep their prompt cache in")
    common.add_argument("--salt-file", metavar="FILE", help=f"with the tenant's cache_salt (env {SALT_VARIABLE}: it)")
    common.add_argument("--timeout", type=float, metavar="SECONDS", help="of a call (default: 30, and 600 for pin)")
    common.add_argument("--json", action="store_true", help="for machines")
    return common


def _add_pin(pin: argparse.ArgumentParser) -> None:
    pin.add_argument("names", metavar="NAME", help="letters, digits and _.:@- in parts joined by /")
    what = pin.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="a raw prompt")
    what.add_argument("--prompt-file", metavar="FILE", help="a raw prompt, as it is in a file")
    what.add_argument("--messages-file", metavar="FILE", help="JSON array of messages, as OpenAI's API has them")
    pin.add_argument("--tools-file", metavar="FILE", help="JSON array of tools, with --messages-file")


def _check(given: argparse.Namespace) -> None:
    if given.dir is None:
        if given.verb == "verify":
            raise ValueError("verify reads a directory: --dir")
        if "namespace" in given and given.namespace:
            raise ValueError("--namespace goes with --dir")
        if "model" in given and (given.model or given.all_models):
            raise ValueError("--model and --all-models go with --dir")
        if "everything" in given and given.everything and given.salt_file:
            raise ValueError("--everything goes without a tenant's --salt-file")
        return
    if given.verb == "pin":
        raise ValueError("pin needs a worker, not a directory: without a model there is nothing to prefill")
    for flag in ("token_file", "tls_ca", "salt_file", "timeout"):
        if getattr(given, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')} is of a worker, and --dir asks none")


def _worker(given: argparse.Namespace, environment: Mapping[str, str]) -> WorkerOptions:
    connection = connection_of(given, environment)
    timeout = given.timeout if given.timeout is not None else _PIN_SECONDS if given.verb == "pin" else _SECONDS
    if not 0 < timeout < 1e6:
        raise ValueError("--timeout: must be above 0 and less than 1000000")
    # What goes for everybody goes without a tenant, whatever the environment has for other calls.
    for_all = "everything" in given and given.everything
    salt = "" if for_all else environment.get(SALT_VARIABLE, "")
    return WorkerOptions(
        address=connection.address,
        token=connection.token,
        tls_ca=connection.tls_ca,
        salt=read_line(given.salt_file) if given.salt_file is not None else salt,
        timeout_s=timeout,
    )


def _prefix(given: argparse.Namespace) -> Prefix:
    if given.messages_file is not None:
        tools = read_text(given.tools_file) if given.tools_file is not None else ""
        return Prefix(messages=read_messages(given.messages_file), tools=tools)
    if given.tools_file is not None:
        raise ValueError("--tools-file goes with --messages-file")
    return Prefix(prompt=given.prompt if given.prompt is not None else read_text(given.prompt_file))
