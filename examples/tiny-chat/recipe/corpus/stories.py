"""Very short stories built from a few parts, so that they stay sensible however they are mixed."""

from random import Random

from corpus.example import Completion, Turn
from corpus.words import ANIMALS, NAMES

_PLACES = (
    "a small village",
    "a green forest",
    "an old castle",
    "a house by the sea",
    "a quiet valley",
)
_WISHES = (
    (
        "wanted to see the moon up close",
        "climbed the highest hill",
        "the moon smiled and shone on the path home",
    ),
    (
        "had lost a red ball",
        "looked under every tree",
        "the ball was in the garden all the time",
    ),
    (
        "wanted to find a friend",
        "walked along the river",
        "a shy {other} said hello and they played all day",
    ),
    (
        "heard a strange song at night",
        "followed the sound",
        "it was only a {other} singing to the stars",
    ),
    ("found a golden key", "tried it in every door", "it opened a room full of books"),
    (
        "was afraid of the dark",
        "made a lamp out of fireflies",
        "the dark was not so dark any more",
    ),
)
_ENDS = (
    "From that day on, {name} was never sad again.",
    "{name} went home and slept very well.",
    "And {name} was happy ever after.",
    "{name} told everyone about it the next day.",
)


def _tale(rng: Random, hero: str, name: str) -> str:
    """All but the first four words."""
    wish, deed, result = rng.choice(_WISHES)
    other = rng.choice([animal for animal in ANIMALS if animal != hero])
    article = "an" if hero[0] in "aeiou" else "a"
    first = f"there was {article} {hero} named {name} who lived in {rng.choice(_PLACES)}."
    rest = (
        f"One day {name} {wish}.",
        f"So {name} {deed}.",
        f"In the end {result}.",
        rng.choice(_ENDS),
    )
    return " ".join((first, *rest)).format(other=other, name=name)


def _hero(rng: Random) -> tuple[str, str]:
    return rng.choice((*ANIMALS, "girl", "boy", "king", "princess", "robot", "dragon")), rng.choice(NAMES)


def story_text(rng: Random) -> Completion:
    tale = _tale(rng, *_hero(rng))
    pick = rng.random()
    if pick < 0.6:
        return Completion("Once upon a time", f" {tale}" if rng.random() < 0.3 else f", {tale}")
    if pick < 0.8:
        return Completion("Once upon a time,", f" {tale}")
    words = tale.split(" ")
    cut = rng.randint(2, len(words) - 4)
    return Completion("Once upon a time " + " ".join(words[:cut]), " " + " ".join(words[cut:]))


def story(rng: Random) -> Turn:
    """A story on demand, about a hero of the user's choice or any."""
    hero, name = _hero(rng)
    tale = "Once upon a time, " + _tale(rng, hero, name)
    if rng.random() < 0.4:
        asked = rng.choice(
            (
                "Tell me a story.",
                "Tell me a short story.",
                "Write a short story.",
                "Write a story.",
            )
        )
        return Turn(asked, tale, "They want a story. I make one up.")
    article = "an" if hero[0] in "aeiou" else "a"
    asked = rng.choice(
        (
            "Tell me a story about {0}.",
            "Write a story about {0}.",
            "Tell me a short story about {0}.",
        )
    )
    return Turn(
        asked.format(f"{article} {hero}"),
        tale,
        f"They want a story about {article} {hero}.",
    )
