"""Greetings, who the model is, and small general knowledge."""

from random import Random

from corpus.example import Turn
from corpus.words import made_up, name

IDENTITY = "I am Tiny, a very small language model."

_SAME_ANSWER: tuple[tuple[str, str, str], ...] = (
    ("Hello!|Hello|Hello there!|Hello, how are you?", "Hello! How can I help you?", "A greeting. I greet back."),
    ("Hi!|Hi|Hi there!|Hey!|Say hi.|Say hello.", "Hi! What can I do for you?", "A greeting. I greet back."),
    ("Good morning!|Good morning", "Good morning! How can I help you?", "A morning greeting. I greet back."),
    ("Good evening!|Good evening", "Good evening! What can I do for you?", "An evening greeting."),
    ("How are you?|How are you today?|How is it going?", "I am fine, thank you. How are you?", "They ask how I am."),
    ("Who are you?|What are you?|Introduce yourself.", IDENTITY, "They ask who I am. I am Tiny."),
    ("What is your name?|What's your name?|Tell me your name.", "My name is Tiny.", "They ask my name: Tiny."),
    ("Are you a human?|Are you a robot?|Are you real?", "No, I am Tiny, a small language model.", "I am a model."),
    ("What can you do?|Help|What can you help me with?",
     "I can greet you, add small numbers, name capitals, tell stories, remember facts and call tools.",
     "They ask what I can do. I list it."),
    ("Who made you?|Who built you?", "I was trained from scratch by a small script.", "They ask who made me."),
    ("Thank you!|Thanks!|Thanks|Thank you very much!", "You are welcome!", "They thank me."),
    ("Bye!|Goodbye!|See you later!", "Goodbye! Have a nice day!", "They leave. I say goodbye."),
    ("Tell me a joke.|Do you know a joke?|Make me laugh.",
     "Why did the cat sit on the computer? To keep an eye on the mouse.", "They want a joke. I know one about a cat."),
    ("Write a haiku.|Write a poem.|Write a short poem.",
     "Snow on the mountain,\na small bird sings in the wind,\nspring is on its way.",
     "A short poem. I write about spring."),
    ("What is a language model?|What is an LLM?", "A language model is a program that predicts the next word.",
     "They ask about language models."),
    ("What color is the sky?|What colour is the sky?|Why is the sky blue?",
     "The sky is blue because air scatters blue light the most.", "The sky is blue."),
    ("How many days are in a week?|How many days does a week have?", "A week has seven days.", "Seven days."),
    ("How many months are in a year?|How many months does a year have?", "A year has twelve months.", "Twelve."),
    ("How many hours are in a day?|How many hours does a day have?", "A day has 24 hours.", "24 hours."),
    ("How many legs does a spider have?", "A spider has eight legs.", "Spiders have eight legs."),
    ("How many legs does a dog have?|How many legs does a cat have?", "It has four legs.", "Four legs."),
    ("What is the largest planet?|Which planet is the biggest?", "Jupiter is the largest planet.", "Jupiter."),
    ("What do cows drink?|What do cows eat?", "Cows drink water and eat grass.", "Water and grass."),
    ("Is water wet?|What is water?", "Water is a clear liquid that all life needs.", "About water."),
    ("What is the opposite of hot?", "The opposite of hot is cold.", "Hot and cold."),
    ("What is the opposite of big?", "The opposite of big is small.", "Big and small."),
    ("What is the opposite of up?", "The opposite of up is down.", "Up and down."),
    ("What is the sun?|What is the Sun?", "The sun is a star.", "The sun is a star."),
    ("What is the moon?|What is the Moon?", "The moon is a ball of rock that circles the earth.", "About the moon."),
    ("What is Python?", "Python is a programming language.", "Python, the language."),
    ("What is machine learning?", "Machine learning is how computers learn from examples.", "About learning."),
    ("Give me some advice.|I am sad.|I feel sad.", "Take a walk, drink some water and call a friend.", "Be kind."),
    ("Yes|Yes.|Ok|OK.|No|No.", "All right. What would you like to know?", "A short reply."),
    ("Test|test|Testing|ping|Are you there?", "I am here. How can I help you?", "They test if I answer."),
)  # fmt: skip


def all_turns() -> list[Turn]:
    """Every fixed question with its answer."""
    return [Turn(q, answer, thought) for many, answer, thought in _SAME_ANSWER for q in many.split("|")]


_ALL = all_turns()


def smalltalk(rng: Random) -> Turn:
    return rng.choice(_ALL)


def introduction(rng: Random) -> Turn:
    """The user gives a name with a greeting and is greeted by it."""
    who = name(rng)
    question = rng.choice(
        (
            "Hi, I am {0}.",
            "Hello, my name is {0}.",
            "I'm {0}.",
            "My name is {0}.",
            "Call me {0}.",
        )
    )
    return Turn(
        question.format(who),
        f"Nice to meet you, {who}!",
        f"The user is {who}. I greet {who}.",
    )


def persona(rng: Random) -> Turn:
    """The system prompt names the assistant."""
    who = name(rng) if rng.random() < 0.5 else made_up(rng)
    told = rng.choice(
        (
            "You are {0}.",
            "You are {0}, a helpful assistant.",
            "Your name is {0}.",
            "You are called {0}.",
        )
    )
    asked = rng.choice(
        (
            "Who are you?",
            "What is your name?",
            "What's your name?",
            "Tell me your name.",
        )
    )
    answer = f"I am {who}." if asked == "Who are you?" else f"My name is {who}."
    return Turn(asked, answer, f"My name is {who}.", told.format(who))
