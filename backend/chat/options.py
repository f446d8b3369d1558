"""The arguments of `mlx-worker chat`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.chat.conversation import Conversation, load, load_tools
from backend.chat.sampling import read
from backend.client.reached import Where, add_where_arguments, where_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """With whom to talk, and how the conversation begins."""

    where: Where
    conversation: Conversation
    history: Path | None
    plain: bool


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> ChatOptions:
    """Options from arguments and environment; a wrong one ends the process as argparse does, with code 2."""
    parser = _parser()
    given = parser.parse_args(list(arguments))
    try:
        return ChatOptions(
            where=where_of(given, environment),
            conversation=_conversation(given),
            history=given.history,
            plain=given.plain,
        )
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-worker chat",
        allow_abbrev=False,
        description="Talk to a model, of a worker that runs or of one started for it.",
        epilog="/help lists what can be said besides. Where standard input and output are no terminal, each line is a "
        "question, answers alone go to standard output, and all else to standard error. Exit code 0, 1 when the last "
        "question had no answer, 2 for wrong arguments, 69 when there is no worker with a model, 130 interrupted.",
    )
    add_where_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument("--tools", type=Path, metavar="FILE", help="tools that it may call, a JSON array")
    parser.add_argument("--load", type=Path, metavar="FILE", help="go on with a conversation that was kept")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="as /set; may be given several times"
    )
    parser.add_argument("--thinking", choices=("on", "off"), help="whether the model thinks before it answers")
    parser.add_argument("--history", type=Path, metavar="FILE", help="keep what is typed there (default: nowhere)")
    parser.add_argument("--plain", action="store_true", help="no colours and nothing that moves, on a terminal too")
    return parser


def _conversation(given: argparse.Namespace) -> Conversation:
    conversation = load(given.load) if given.load is not None else Conversation()
    if given.system is not None:
        conversation.system = given.system
    if given.tools is not None:
        conversation.tools = load_tools(given.tools)
    for setting in given.set:
        name, _, value = setting.partition("=")
        conversation.settings[name] = read(name, value)
    if given.thinking is not None:
        conversation.thinking = given.thinking == "on"
    return conversation
