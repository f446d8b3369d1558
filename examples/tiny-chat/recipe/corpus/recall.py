"""Facts given in the conversation and asked back, and plain repeating. This is where copying is learnt."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from corpus.example import Completion, Turn
from corpus.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    HOBBIES,
    JOBS,
    city,
    code,
    lower_word,
    made_up,
    name,
)


@dataclass(frozen=True)
class Fact:
    """How a fact is told, asked for and answered; {0} is its value."""

    value: Callable[[Random], str]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str


FACTS = (
    Fact(name, ("My name is {0}.", "I am {0}.", "I'm {0}.", "You can call me {0}."),
         ("What is my name?", "What's my name?", "Who am I?", "Do you know my name?"), "Your name is {0}."),
    Fact(city, ("I live in {0}.", "I am from {0}.", "My home is {0}."),
         ("Where do I live?", "Which city do I live in?", "Where am I from?"), "You live in {0}."),
    Fact(lambda r: r.choice(COLOURS), ("My favorite color is {0}.", "My favourite colour is {0}.", "I like {0} best."),
         ("What is my favorite color?", "What's my favourite colour?", "Which color do I like?"),
         "Your favorite color is {0}."),
    Fact(code, ("The code is {0}.", "The secret code is {0}.", "Remember the code {0}.", "My code is {0}."),
         ("What is the code?", "What was the code?", "Tell me the code.", "What is the secret code?"),
         "The code is {0}."),
    Fact(name, ("My dog is called {0}.", "I have a dog named {0}.", "My dog's name is {0}."),
         ("What is my dog called?", "What is my dog's name?", "What is the name of my dog?"),
         "Your dog is called {0}."),
    Fact(name, ("My cat is called {0}.", "I have a cat named {0}.", "My cat's name is {0}."),
         ("What is my cat called?", "What is my cat's name?", "What is the name of my cat?"),
         "Your cat is called {0}."),
    Fact(lambda r: r.choice(FOODS), ("My favorite food is {0}.", "I love to eat {0}.", "I like {0}."),
         ("What is my favorite food?", "What do I like to eat?"), "You like {0}."),
    Fact(lambda r: str(r.randint(5, 99)), ("I am {0} years old.", "My age is {0}.", "I'm {0} years old."),
         ("How old am I?", "What is my age?"), "You are {0} years old."),
    Fact(lambda r: r.choice(JOBS), ("I work as a {0}.", "I am a {0}.", "My job is {0}."),
         ("What is my job?", "What do I do for a living?"), "You are a {0}."),
    Fact(lambda r: r.choice(HOBBIES), ("My hobby is {0}.", "I enjoy {0}.", "In my free time I like {0}."),
         ("What is my hobby?", "What do I enjoy?"), "Your hobby is {0}."),
    Fact(lower_word, ("The password is {0}.", "The secret word is {0}.", "The magic word is {0}."),
         ("What is the password?", "What is the secret word?", "What was the magic word?"), "It is {0}."),
    Fact(lambda r: r.choice(ANIMALS), ("My favorite animal is the {0}.", "My favourite animal is the {0}."),
         ("What is my favorite animal?", "What's my favourite animal?"), "Your favorite animal is the {0}."),
    Fact(lambda r: str(r.randint(2, 99)), ("My lucky number is {0}.", "My favorite number is {0}."),
         ("What is my lucky number?", "What is my favorite number?"), "Your number is {0}."),
)  # fmt: skip


@dataclass(frozen=True)
class Recall:
    """Some facts, told one by one, and one of them asked back."""

    told: tuple[str, ...]
    asked: str
    answer: str
    thought: str


def recall(rng: Random, count: int) -> Recall:
    chosen = rng.sample(FACTS, count)
    values = [fact.value(rng) for fact in chosen]
    told = tuple(rng.choice(f.told).format(v) for f, v in zip(chosen, values, strict=True))
    index = rng.randrange(count)
    fact, value = chosen[index], values[index]
    return Recall(
        told,
        rng.choice(fact.asked),
        fact.answer.format(value),
        f"They said: {told[index]}",
    )


def recall_in_one(rng: Random) -> Turn:
    """Facts and question in one message, or the facts in the system prompt."""
    fact = recall(rng, rng.choice((1, 1, 2, 2, 3)))
    facts = " ".join(fact.told)
    if rng.random() < 0.25:
        lead = rng.choice(("About the user: ", "The user says: ", "Remember: ", ""))
        return Turn(fact.asked, fact.answer, fact.thought, lead + facts)
    lead = rng.choice(("", "", "", "Remember this: ", "Please remember: "))
    return Turn(f"{lead}{facts} {fact.asked}", fact.answer, fact.thought)


def repeat(rng: Random) -> Turn:
    """Say the same again."""
    makers = (name, code, city, lower_word, lambda r: made_up(r).lower())
    n = rng.choice((1, 2, 3, 3, 4, 5, 6))
    text = " ".join(rng.choice(makers)(rng) for _ in range(n))
    asked = rng.choice(
        (
            "Repeat: {0}",
            "Say: {0}",
            "Repeat after me: {0}",
            "Say {0}",
            'Repeat this text: "{0}"',
        )
    )
    return Turn(asked.format(text), text, f'I repeat "{text}".' if rng.random() < 0.5 else None)


def repetition(rng: Random) -> Completion:
    """Random words, then the same again once or twice: the densest lesson in copying that there is."""
    makers = (name, code, city, made_up, lower_word, lambda r: made_up(r).lower())
    text = rng.choice((" ", ", ", "\n")).join(rng.choice(makers)(rng) for _ in range(rng.randint(3, 10)))
    mark = rng.choice(("\n", " = ", " ", '", "', "; "))
    return Completion(text + mark, mark.join([text] * rng.choice((1, 2))))


def swap(rng: Random) -> Turn:
    """Who has what: the answer is found by its neighbour."""
    people = [made_up(rng) if rng.random() < 0.7 else name(rng) for _ in range(rng.choice((2, 2, 3)))]
    things = [rng.choice((lower_word, code, city))(rng) for _ in people]
    told = " ".join(f"{p} has {t}." for p, t in zip(people, things, strict=True))
    i = rng.randrange(len(people))
    if rng.random() < 0.5:
        return Turn(
            f"{told} What does {people[i]} have?",
            f"{people[i]} has {things[i]}.",
            f"I look for {people[i]}.",
        )
    return Turn(
        f"{told} Who has {things[i]}?",
        f"{people[i]} has {things[i]}.",
        f"I look for {things[i]}.",
    )
