"""The lines that begin with a slash."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from backend.chat.conversation import Conversation, load, load_tools
from backend.chat.sampling import FIELDS, read
from backend.chat.talking import Talk
from backend.client.reached import Reached
from backend.terminal.progress import duration
from backend.terminal.screen import Screen
from backend.terminal.showing import count, figure, pairs, percent


class Leave(Exception):
    """The chat is over."""


@dataclass(frozen=True, slots=True)
class _Command:
    takes: str
    told: str
    run: "Callable[[Commands, str], None]"


class Commands:
    """What the commands act on."""

    def __init__(self, talk: Talk, worker: Reached, screen: Screen) -> None:
        self._talk, self._worker, self._screen = talk, worker, screen

    def run(self, line: str) -> None:
        """Do what a line says, and say what was done.

        Raises:
            Leave: It was `/quit`.
        """
        name, _, rest = line.partition(" ")
        command = TABLE.get(name)
        if command is None:
            self._screen.say(f"There is no command {name}: /help lists them.", "red")
            return
        try:
            command.run(self, rest.strip())
        except (ValueError, OSError) as error:
            self._screen.say(str(error), "red")

    @property
    def _conversation(self) -> Conversation:
        return self._talk.conversation

    def help(self, _: str) -> None:
        """Every command."""
        facts = {f"{name} {command.takes}".rstrip(): command.told for name, command in TABLE.items()}
        for line in pairs(facts):
            self._screen.say(line)
        self._screen.say(
            "Ctrl-C stops an answer; twice at the prompt, or Ctrl-D, leaves. // begins a text with a slash."
        )

    def new(self, _: str) -> None:
        """Forget what was said."""
        self._conversation.messages.clear()
        self._screen.say("A new conversation.")

    def system(self, text: str) -> None:
        """Set or show the system's text."""
        if text:
            self._conversation.system = "" if text == "off" else text
        self._screen.say(f"system: {self._conversation.system or 'none'}")

    def set(self, text: str) -> None:
        """Set, unset or show how answers are drawn."""
        name, _, value = text.partition(" ")
        settings = self._conversation.settings
        if value.strip() in ("off", "default") and name in FIELDS:
            settings.pop(name, None)
        elif name:
            settings[name] = read(name, value.strip())
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        self._screen.say(f"set: {told or 'nothing; answers are greedy'}")

    def thinking(self, text: str) -> None:
        """Whether the model is to think first."""
        if text not in ("on", "off", "default"):
            raise ValueError("/thinking takes on, off or default.")
        self._conversation.thinking = {"on": True, "off": False}.get(text)
        self._screen.say(f"thinking: {text}")

    def tools(self, text: str) -> None:
        """Take tools from a file."""
        if text:
            self._conversation.tools = [] if text == "off" else load_tools(_path(text))
        names = [str(tool.get("function", tool)["name"]) for tool in self._conversation.tools]
        self._screen.say(f"tools: {', '.join(names) or 'none'}")

    def save(self, text: str) -> None:
        """Write the conversation to a file."""
        self._conversation.save(_path(text))
        self._screen.say(f"Saved to {text}.")

    def load(self, text: str) -> None:
        """Go on from a file."""
        self._talk.conversation = load(_path(text))
        self._screen.say(f"Loaded {len(self._conversation.messages)} messages from {text}.")

    def stats(self, _: str) -> None:
        """What was asked so far, and how the worker is."""
        talk = self._talk
        cached = talk.cached_tokens / talk.prompt_tokens if talk.prompt_tokens else 0.0
        facts = {
            "answers": f"{count(talk.answers)}, {count(talk.tokens)} tokens",
            "prompt tokens": f"{count(talk.prompt_tokens)}, {percent(cached)} from the cache",
            "guessed tokens": f"{count(talk.drafted_tokens)}, {count(talk.accepted_tokens)} of them right",
        }
        try:
            info = self._worker.look()
        except grpc.RpcError as error:
            raise ValueError(self._worker.sentence(error)) from None
        facts |= {"model": info.model, "context": f"{count(info.context)} tokens", "device": info.device}
        facts |= {"BLAS": info.blas, "mode": info.mode}
        facts |= {"speculation": info.details.get("speculation", "")}
        facts |= {"worker": f"{info.version}, up {duration(info.uptime_seconds)}"}
        facts |= {f"cache {name}": figure(name, value) for name, value in sorted(info.cache.items()) if "." not in name}
        for line in pairs({name: text for name, text in facts.items() if text}):
            self._screen.say(line)

    def quit(self, _: str) -> None:
        """Leave."""
        raise Leave


def _path(text: str) -> Path:
    if not text:
        raise ValueError("Name a file.")
    return Path(text).expanduser()


TABLE: Final[Mapping[str, _Command]] = {
    "/help": _Command("", "this", Commands.help),
    "/new": _Command("", "begin a new conversation", Commands.new),
    "/system": _Command("TEXT", "what the model is told first; off: nothing", Commands.system),
    "/set": _Command("NAME VALUE", f"{', '.join(FIELDS)}; off: the default", Commands.set),
    "/thinking": _Command("on|off|default", "whether the model thinks before it answers", Commands.thinking),
    "/tools": _Command("FILE", "tools that the model may call, a JSON array; off: none", Commands.tools),
    "/save": _Command("FILE", "keep the conversation", Commands.save),
    "/load": _Command("FILE", "go on with one that was kept", Commands.load),
    "/stats": _Command("", "what was asked so far, and how the worker is", Commands.stats),
    "/quit": _Command("", "leave", Commands.quit),
}
