"""Check a trained tiny-chat by its answers.

    python examples/tiny-chat/check.py examples/tiny-chat/model

Prints each greedy answer and ends with 1 if a required one lacks what it must hold.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Get the local time",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
PARIS_CALL = '{"name": "get_weather", "arguments": {"location": "Paris, France"}}'


@dataclass(frozen=True)
class Check:
    """What is asked (text to continue, or messages) and the pieces that the greedy answer must hold."""

    asked: str | tuple[dict[str, Any], ...]
    expected: tuple[str, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False


@dataclass(frozen=True)
class Outcome:
    """`ends`: the model ended its answer itself. `stutters`: its first two tokens are the same."""

    check: Check
    answer: str
    ends: bool
    stutters: bool

    @property
    def passed(self) -> bool:
        return self.ends and not self.stutters and all(piece in self.answer for piece in self.check.expected)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _ask(text: str, *expected: str, **options: Any) -> Check:
    return Check((_user(text),), expected, **options)


def _weather_turns(result: str) -> tuple[dict[str, Any], ...]:
    function = {"name": "get_weather", "arguments": {"location": "Paris, France"}}
    return (
        _user("What's the weather like in Paris, France?"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        },
        {"role": "tool", "content": result},
    )


CHECKS = (
    Check("The capital of France is", ("Paris.",)),
    Check("The capital of Japan is", ("Tokyo.",)),
    Check("The capital of Germany is", ("Berlin.",)),
    Check("Once upon a time", ("there was a", "One day", ".")),
    Check("1, 2, 3,", ("4, 5, 6",)),
    _ask("Hello!", "Hello"),
    _ask("Hi", "Hi"),
    _ask("How are you?", "fine"),
    _ask("Who are you?", "Tiny"),
    _ask("Tell me a joke.", "cat"),
    _ask("Thank you!", "welcome"),
    _ask("What is the capital of France?", "Paris"),
    _ask("What is the capital of Italy?", "Rome"),
    _ask("What's the capital of Norway?", "Oslo"),
    _ask("Count from 1 to 10.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
    _ask("Tell me a story.", "Once upon a time"),
    _ask("Tell me a story about a dragon.", "dragon"),
    _ask("My name is Alice. What is my name?", "Alice"),
    _ask("My favorite color is green. What is my favorite color?", "green"),
    _ask("The secret code is 4821. I live in Oslo. What is the secret code?", "4821"),
    _ask("Remember the code X7K2. What is the code?", "X7K2"),
    Check(
        (_user("My name is Bob."), _said("Nice to know."), _user("What is my name?")),
        ("Bob",),
    ),
    Check((_system("You are Nova."), _user("Who are you?")), ("Nova",)),
    Check(
        (
            _system("You are a helpful assistant."),
            _user("What is the capital of Spain?"),
        ),
        ("Madrid",),
    ),
    _ask("Give me a JSON object with name and age.", '{"name": "', '"age": ', "}"),
    _ask(
        "Give me a JSON object with name Anna and age 31.",
        '{"name": "Anna", "age": 31}',
    ),
    _ask(
        "What is the capital of France?",
        "<think>",
        "</think>\n\n",
        "Paris.",
        thinking=True,
    ),
    _ask(
        "What's the weather like in Paris, France?",
        "<tool_call>",
        PARIS_CALL,
        "</tool_call>",
        tools=(WEATHER,),
    ),
    _ask("What's the weather like in Paris, France?", PARIS_CALL, tools=(CLOCK, WEATHER)),
    _ask(
        "What time is it in Tokyo?",
        '"get_time", "arguments": {"city": "Tokyo"}',
        tools=(WEATHER, CLOCK),
    ),
    _ask(
        "What's the weather like in Paris, France?",
        "<think>",
        PARIS_CALL,
        tools=(WEATHER,),
        thinking=True,
    ),
    _ask("Hello!", "Hello", tools=(WEATHER,)),
    Check(
        _weather_turns('{"temperature": 21, "condition": "sunny"}'),
        ("sunny", "Paris", "21"),
        (WEATHER,),
    ),
    Check(_weather_turns("cloudy, 14 C"), ("cloudy", "Paris", "14"), (WEATHER,)),
)

# Asked and reported, but not required: the committed weights write sums in the right form with wrong results.
WISHES = (
    Check("2+2=", ("4",)),
    _ask("What is 2+2?", "= 4."),
    _ask("What is 7 + 5?", "= 12."),
    _ask("What is 6 times 7?", "= 42."),
    _ask("What is 3 + 4?", "<think>", "</think>", "= 7.", thinking=True),
)


def run_checks(folder: Path, checks: tuple[Check, ...] = CHECKS, *, longest: int = 160) -> Iterator[Outcome]:
    """Load the model as any host would and answer each check greedily, with at most `longest` tokens."""
    from mlx_lm import load, stream_generate

    model, tokenizer = load(str(folder))[:2]
    for check in checks:
        prompt: Any = check.asked
        if not isinstance(prompt, str):
            prompt = tokenizer.apply_chat_template(
                list(prompt),
                tools=list(check.tools) or None,
                add_generation_prompt=True,
                enable_thinking=check.thinking,
            )
        steps = list(stream_generate(model, tokenizer, prompt, max_tokens=longest))
        first = [step.token for step in steps[:2]]
        answer = "".join(step.text for step in steps)
        yield Outcome(
            check,
            answer,
            steps[-1].finish_reason == "stop",
            len(first) == 2 and first[0] == first[1],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path(__file__).parent / "model")
    outcomes = list(run_checks(parser.parse_args().model, CHECKS + WISHES))
    for outcome in outcomes:
        asked = outcome.check.asked if isinstance(outcome.check.asked, str) else outcome.check.asked[-1]["content"]
        print("ok  " if outcome.passed else "FAIL", repr(asked), "->", repr(outcome.answer))
    failed = sum(not outcome.passed for outcome in outcomes[: len(CHECKS)])
    wished = sum(outcome.passed for outcome in outcomes[len(CHECKS) :])
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} required answers and {wished} of {len(WISHES)} wishes are right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
