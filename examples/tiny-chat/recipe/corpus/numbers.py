"""Small arithmetic, counting and fixed sequences."""

from random import Random

from corpus.example import Completion, Turn

_SIGNS = {"+": ("+", "plus"), "-": ("-", "minus"), "*": ("*", "times")}


def _problem(rng: Random) -> tuple[int, str, int, int]:
    sign = rng.choice("++-**")
    if sign == "*":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        return a, sign, b, a * b
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if sign == "-":
        a, b = max(a, b), min(a, b)
        return a, sign, b, a - b
    return a, sign, b, a + b


def arithmetic(rng: Random) -> Turn:
    """A sum, a difference or a product of numbers up to 10."""
    a, sign, b, result = _problem(rng)
    written = rng.choice(_SIGNS[sign])
    tight = rng.random() < 0.3 and written == sign
    problem = f"{a}{sign}{b}" if tight else f"{a} {written} {b}"
    question = rng.choice(
        (
            "What is {0}?",
            "What's {0}?",
            "{0}",
            "{0} = ?",
            "{0}?",
            "Calculate {0}.",
            "How much is {0}?",
        )
    )
    return Turn(
        question.format(problem),
        f"{a} {sign} {b} = {result}.",
        f"{a} {sign} {b} is {result}.",
    )


def arithmetic_text(rng: Random) -> Completion:
    a, sign, b, result = _problem(rng)
    if rng.random() < 0.5:
        return Completion(f"{a}{sign}{b}=", f"{result}")
    return Completion(f"{a} {sign} {b} =", f" {result}")


def counting(rng: Random) -> Turn:
    """Count from one number to another, up or down."""
    if rng.random() < 0.25:
        return Turn(
            *rng.choice(
                (
                    ("Count from 1 to 10.", _range(1, 10)),
                    ("Count to 10.", _range(1, 10)),
                )
            )
        )
    low = rng.choice((1, 1, 1, 0, 2, 3, 5, rng.randint(0, 15)))
    high = low + rng.randint(2, 10)
    if rng.random() < 0.2:
        return Turn(
            f"Count down from {high} to {low}.",
            _range(high, low),
            f"From {high} down to {low}.",
        )
    question = rng.choice(
        (
            "Count from {0} to {1}.",
            "Count from {0} to {1}, please.",
            "List the numbers {0} to {1}.",
        )
    )
    return Turn(question.format(low, high), _range(low, high), f"From {low} to {high}.")


def counting_text(rng: Random) -> Completion:
    low, shown = rng.choice((0, 1, 1, 1, 2, 5)), rng.randint(2, 4)
    numbers = [str(n) for n in range(low, low + rng.randint(8, 12))]
    return Completion(", ".join(numbers[:shown]) + ",", " " + ", ".join(numbers[shown:]) + ".")


def _range(first: int, last: int) -> str:
    step = 1 if last >= first else -1
    return ", ".join(str(n) for n in range(first, last + step, step))
