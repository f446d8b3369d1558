"""How often each kind of example is drawn, and how single turns become conversations."""

from collections.abc import Callable
from random import Random
from typing import TypeVar

from corpus import knowledge, numbers, recall, smalltalk, stories, structured, tool_use
from corpus.example import (
    Chat,
    Completion,
    Example,
    Message,
    Turn,
    assistant,
    system,
    user,
    varied,
)

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are Tiny, a small assistant.",
    "Answer briefly.",
    "You are a friendly assistant. Keep your answers short.",
    "Be kind.",
)
_TURNS: dict[Callable[[Random], Turn], float] = {
    smalltalk.smalltalk: 7, smalltalk.introduction: 2, smalltalk.persona: 3,
    numbers.arithmetic: 10, numbers.counting: 3,
    knowledge.capital: 8, knowledge.listing: 2,
    stories.story: 3,
    recall.recall_in_one: 10, recall.repeat: 8, recall.swap: 5,
    structured.json_object: 6, structured.json_extract: 4, structured.json_list: 1,
}  # fmt: skip
_TEXTS: dict[Callable[[Random], Completion], float] = {
    numbers.arithmetic_text: 2, numbers.counting_text: 1, knowledge.capital_text: 6, knowledge.known_text: 3,
    stories.story_text: 4,
}  # fmt: skip
_TOOL_CHATS: dict[Callable[[Random], Chat], float] = {
    tool_use.tool_call: 16, tool_use.two_calls: 1, tool_use.tool_result: 7,
}  # fmt: skip
_REPLIES = (
    "Nice to know.",
    "Good to know.",
    "I will remember that.",
    "Thank you for telling me.",
    "Ok.",
)


T = TypeVar("T")


def draw_example(rng: Random) -> Example:
    """One example of the mixture."""
    kind = rng.choices(("turn", "text", "tools", "unneeded", "told", "repetition"), (60, 14, 14, 3, 9, 45))[0]
    if kind == "repetition":
        return recall.repetition(rng)
    if kind == "text":
        return _draw(rng, _TEXTS)
    if kind == "tools":
        return _draw(rng, _TOOL_CHATS)
    if kind == "unneeded":
        return tool_use.without_need(rng, _draw(rng, _TURNS), thinking=rng.random() < 0.2)
    if kind == "told":
        return _told_turn_by_turn(rng)
    return _conversation(rng, _draw(rng, _TURNS))


def _draw(rng: Random, weights: dict[Callable[[Random], T], float]) -> T:
    return rng.choices(tuple(weights), tuple(weights.values()))[0](rng)


def _conversation(rng: Random, turn: Turn) -> Chat:
    """The turn alone, or after other turns, with or without a system prompt, with or without thinking."""
    thinking = turn.thought is not None and rng.random() < 0.25
    messages: list[Message] = []
    if turn.system or rng.random() < 0.25:
        messages.append(system(turn.system or rng.choice(_SYSTEMS)))
    for _ in range(rng.choices((0, 1, 2), (70, 20, 10))[0]):
        earlier = _draw(rng, _TURNS)
        if earlier.system is None and len(earlier.answer) < 120:
            messages += [user(varied(rng, earlier.question)), assistant(earlier.answer)]
    last = assistant(turn.answer, turn.thought if thinking else None)
    return Chat((*messages, user(varied(rng, turn.question)), last), thinking=thinking)


def _told_turn_by_turn(rng: Random) -> Chat:
    """Facts told in turns of their own, and asked back later."""
    fact = recall.recall(rng, rng.choice((1, 1, 2, 3)))
    thinking = rng.random() < 0.25
    messages: list[Message] = [system(rng.choice(_SYSTEMS))] if rng.random() < 0.4 else []
    for told in fact.told:
        messages += [user(varied(rng, told)), assistant(rng.choice(_REPLIES))]
        if rng.random() < 0.3:
            other = numbers.arithmetic(rng) if rng.random() < 0.5 else knowledge.capital(rng)
            messages += [user(other.question), assistant(other.answer)]
    if rng.random() < 0.15:
        return Chat((*messages[:-1], assistant("Ok.")))
    last = assistant(fact.answer, fact.thought if thinking else None)
    return Chat((*messages, user(varied(rng, fact.asked)), last), thinking=thinking)
