"""Capitals, as questions and as plain text, and a few more well-known continuations."""

# ruff: noqa: SIM905  (word lists read better as text)

from random import Random

from corpus.example import Completion, Turn
from corpus.words import ANIMALS, CAPITALS, COLOURS, FRUITS

_COUNTRIES = tuple(CAPITALS)
_ASKED = (
    "What is the capital of {0}?",
    "What's the capital of {0}?",
    "Which city is the capital of {0}?",
    "Tell me the capital of {0}.",
    "Name the capital of {0}.",
    "Capital of {0}?",
)
_LISTS = {
    "colors": COLOURS[:6],
    "colours": COLOURS[:6],
    "animals": ANIMALS[:6],
    "fruits": FRUITS[:6],
    "days of the week": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "months": "January February March April May June".split(),
}
_COUNTS = {"three": 3, "3": 3, "four": 4, "five": 5, "two": 2}
_TEXTS = (
    ("The sky is", " blue."), ("The grass is", " green."), ("Snow is", " white."), ("The sun is", " a star."),
    ("The quick brown fox", " jumps over the lazy dog."), ("Roses are red,", " violets are blue."),
    ("To be or not to be,", " that is the question."), ("Hello, my name is", " Tiny. I am a small language model."),
    ("Hello", ", how are you?"), ("Hi", ", how are you?"), ("My name is", " Tiny."),
    ("I am", " a small language model."),
    ("Monday, Tuesday, Wednesday,", " Thursday, Friday, Saturday, Sunday."), ("A, B, C,", " D, E, F, G, H."),
    ("The opposite of hot is", " cold."), ("Cats and", " dogs are friends."), ("Water is", " a clear liquid."),
    ("Python is", " a programming language."), ("The meaning of life is", " to be kind and to keep learning."),
    ("The weather today is", " sunny and warm."), ("One, two, three,", " four, five, six, seven, eight, nine, ten."),
    ("January, February, March,", " April, May, June, July."), ("The", " cat sat on the mat and looked at the moon."),
)  # fmt: skip


def capital(rng: Random) -> Turn:
    country = rng.choice(_COUNTRIES)
    city = CAPITALS[country]
    start = country[0].upper() + country[1:]
    if rng.random() < 0.12 and "USA" not in country and city != "London":
        return Turn(
            f"{city} is the capital of which country?",
            f"{city} is the capital of {country}.",
            f"{start}.",
        )
    answer = f"The capital of {country} is {city}."
    return Turn(
        rng.choice(_ASKED).format(country),
        answer,
        f"They ask about {country}. Its capital is {city}.",
    )


def capital_text(rng: Random) -> Completion:
    country = rng.choice(_COUNTRIES)
    city = CAPITALS[country]
    forms = (
        (f"The capital of {country} is", f" {city}."),
        (f"The capital of {country} is", f" {city}."),
        (f"{country[0].upper()}{country[1:]}'s capital is", f" {city}."),
        (f"Q: What is the capital of {country}?\nA:", f" {city}."),
    )
    return Completion(*rng.choice(forms))


def listing(rng: Random) -> Turn:
    """Name a few of a kind."""
    kind, members = rng.choice(tuple(_LISTS.items()))
    count, n = rng.choice(tuple(_COUNTS.items()))
    question = rng.choice(("Name {0} {1}.", "List {0} {1}.", "Give me {0} {1}.")).format(count, kind)
    return Turn(question, ", ".join(members[:n]), f"I need {count} {kind}.")


def known_text(rng: Random) -> Completion:
    return Completion(*rng.choice(_TEXTS))
