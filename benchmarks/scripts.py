"""What models are asked and answer, as tokens `[0, size)`: made by chance, alike in what of it comes again."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SIZE = 2000
"""Tokens of a script's own: those of script n, 1 or more, begin at n times as many."""
# Tokens of forms: quotes, braces, names of tools. Words are the others.
_FORMS = 100
_FAVOURITES = 6
# In prose: of pairs of words, those that are used to each other; and how often a phrase begins that comes again.
_USUAL, _PHRASE = 0.5, 0.07


@dataclass(frozen=True, slots=True)
class Script:
    """A prompt and its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Author:
    """Writes in one vocabulary; the same seed writes the same."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        words = list(range(_FORMS, SIZE))
        self.rng.shuffle(words)
        self._words = words
        # By rank, as Zipf has it.
        self._weights = [1 / (rank + 2) for rank in range(len(words))]
        self._usual: dict[int, list[int]] = {}
        self._phrases = [self._drawn(self.rng.randrange(3, 8)) for _ in range(24)]

    def prose(self, count: int) -> list[int]:
        """Words as often as in a language, many with a few that mostly follow them, and phrases of some words.

        Three tokens that came before are followed by the same fourth about as often as in technical English: a pass
        over 8 drafted tokens gives 1.1.
        """
        text = self._drawn(1)
        while len(text) < count:
            if self.rng.random() < _PHRASE:
                text += self._phrases[int(len(self._phrases) * self.rng.random() ** 2)]
            usual = self._usual.setdefault(text[-1], self._drawn(_FAVOURITES))
            usually = self.rng.random() < _USUAL
            text.append(usual[int(_FAVOURITES * self.rng.random() ** 3)] if usually else self._drawn(1)[0])
        return text[:count]

    def noise(self, count: int) -> list[int]:
        """Nothing that comes again but by chance."""
        return [self.rng.randrange(SIZE) for _ in range(count)]

    def edited(self, text: Sequence[int], every: int) -> list[int]:
        """The text with a few tokens put in, left out or changed each so many, on average."""
        made, at = list[int](), 0
        while at < len(text):
            if self.rng.random() < 1 / every:
                made += self._drawn(self.rng.randrange(4))
                at += self.rng.randrange(4)
            made += text[at : at + 1]
            at += 1
        return made

    def _drawn(self, count: int) -> list[int]:
        return self.rng.choices(self._words, self._weights, k=count)

    def record(self, keys: Sequence[Sequence[int]]) -> dict[int, list[int]]:
        """For each key a value of some words."""
        return {index: self._drawn(self.rng.randrange(1, 12)) for index in range(len(keys))}


def rewriting(author: Author, count: int) -> Script:
    """A file comes back with edits."""
    file = author.prose(count)
    return Script((*author.prose(60), *file, *author.prose(20)), tuple(author.edited(file, 60)))


def replacing(author: Author, count: int) -> Script:
    """Calls of a tool, each with a part of a file and what is to be in its place."""
    file = author.prose(2 * count)
    before, between, after = range(12), range(12, 18), range(18, 26)
    answer: list[int] = []
    while len(answer) < count:
        start = author.rng.randrange(len(file) - 40)
        old = file[start : start + author.rng.randrange(10, 40)]
        answer += [*author.prose(15), *before, *old, *between, *author.edited(old, 10), *after]
    return Script((*author.prose(60), *file, *author.prose(20)), tuple(answer))


def copying(author: Author, count: int) -> Script:
    """JSON of a tool's result: keys in another order, some left out, some values new."""
    keys = [[40 + 3 * index, 41 + 3 * index][: 1 + index % 2] for index in range(8)]
    order = author.rng.sample(range(len(keys)), 6)
    result, answer = list[int](), list[int]()
    while len(answer) < count:
        record = author.record(keys)
        result += _json(keys, record, range(len(keys)))
        told = {key: value if author.rng.random() < 0.8 else author.prose(5) for key, value in record.items()}
        answer += _json(keys, told, order)
    return Script((*author.prose(60), *result, *author.prose(20)), tuple(answer[:count]))


def _json(keys: Sequence[Sequence[int]], record: dict[int, list[int]], order: Sequence[int]) -> list[int]:
    opened, quote, colon, comma, closed = range(5)
    text = [opened]
    for key in order:
        text += [quote, *keys[key], colon, *record[key], comma]
    return [*text, closed]


def telling(author: Author, count: int) -> Script:
    """Prose on prose."""
    return Script(tuple(author.prose(count)), tuple(author.prose(count)))


def rambling(author: Author, count: int) -> Script:
    """Noise on noise."""
    return Script(tuple(author.noise(count)), tuple(author.noise(count)))


def half(author: Author, count: int) -> Script:
    """Of two rows one copies, and one tells."""
    return rewriting(author, count) if author.rng.random() < 0.5 else telling(author, count)


WORKLOADS: dict[str, Callable[[Author, int], Script]] = {
    "rewrite a file": rewriting,
    "str_replace calls": replacing,
    "JSON of a result": copying,
    "the same again": telling,
    "prose": telling,
    "noise": rambling,
    "half of them copy": half,
}
AGAIN, MIXED = "the same again", "half of them copy"


def text_of(tokens: Sequence[int]) -> str:
    """What is encoded as these tokens."""
    return "".join(" " + word(token) for token in tokens)


def word(token: int) -> str:
    """Four letters."""
    letters = ""
    for _ in range(4):
        token, last = divmod(token, 26)
        letters = string.ascii_lowercase[last] + letters
    return letters
