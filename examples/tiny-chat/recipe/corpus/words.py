"""Names, places and things, real and made up. Made-up ones are what teaches the model to copy."""

# ruff: noqa: SIM905  (word lists read better as text)

from random import Random

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "the United Kingdom": "London", "Ireland": "Dublin", "Scotland": "Edinburgh",
    "Belgium": "Brussels", "the Netherlands": "Amsterdam", "Switzerland": "Bern", "Austria": "Vienna",
    "Poland": "Warsaw", "Hungary": "Budapest", "the Czech Republic": "Prague", "Greece": "Athens",
    "Bulgaria": "Sofia", "Romania": "Bucharest", "Ukraine": "Kyiv", "Russia": "Moscow", "Finland": "Helsinki",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Iceland": "Reykjavik", "Turkey": "Ankara",
    "Egypt": "Cairo", "Morocco": "Rabat", "Kenya": "Nairobi", "Nigeria": "Abuja", "Israel": "Jerusalem",
    "Lebanon": "Beirut", "Iraq": "Baghdad", "Iran": "Tehran", "Saudi Arabia": "Riyadh", "Pakistan": "Islamabad",
    "India": "New Delhi", "Nepal": "Kathmandu", "China": "Beijing", "Japan": "Tokyo", "South Korea": "Seoul",
    "Vietnam": "Hanoi", "Thailand": "Bangkok", "Malaysia": "Kuala Lumpur", "Indonesia": "Jakarta",
    "the Philippines": "Manila", "Australia": "Canberra", "New Zealand": "Wellington", "Canada": "Ottawa",
    "the United States": "Washington", "the USA": "Washington", "Mexico": "Mexico City", "Cuba": "Havana",
    "Colombia": "Bogota", "Venezuela": "Caracas", "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires",
    "Brazil": "Brasilia",
}  # fmt: skip

NAMES = (
    "Anna Ben Carla David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tom Vera "
    "Alice Bob Charlie Clara Daniel Ella Frank Hanna Ivan Julia Lena Lucy Mark Max Nina Oscar Peter Sara Sophie "
    "Tim Anton Maria John Jane Robert Linda Omar Priya Yuki Chen Aisha Diego Fatima Hugo Zoe"
).split()
CITIES = (
    "Paris London Berlin Rome Madrid Tokyo Boston Chicago Sydney Toronto Munich Hamburg Lyon Milan Porto Osaka "
    "Seattle Denver Dallas Mumbai Shanghai Istanbul Barcelona Naples Leeds Bristol Geneva Zurich Bergen Nice"
).split()
COLOURS = "red blue green yellow orange purple pink black white brown grey gold silver".split()
ANIMALS = "cat dog fox rabbit bear owl mouse horse duck frog lion bird turtle wolf goat pig hen fish".split()
FOODS = "pizza pasta rice soup bread cheese apples salad curry cake noodles pancakes sushi plums".split()
HOBBIES = "chess football painting reading swimming running cooking singing dancing gardening sailing".split()
FRUITS = "apple banana cherry grape lemon mango orange peach pear plum".split()
THINGS = "book lamp table chair clock phone bottle basket ring key coat hat box cup ball kite bike boat".split()
JOBS = "baker teacher doctor farmer pilot painter singer nurse writer cook sailor gardener".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl sh st th tr".split()
_VOWELS = "a e i o u ai ea ee io oa".split()
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "x", "nd", "rk"]


def made_up(rng: Random) -> str:
    """A capitalised word of two or three syllables that most likely never occurred before."""
    syllables = (
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3)))
    )
    word = "".join(syllables).capitalize()
    return word if len(word) > 2 else word + "na"


def name(rng: Random) -> str:
    """A first name; half of them made up."""
    return rng.choice(NAMES) if rng.random() < 0.4 else made_up(rng)


def city(rng: Random) -> str:
    """A city: a capital, another real one, or a made-up one."""
    pick = rng.random()
    if pick < 0.3:
        return rng.choice(tuple(CAPITALS.values()))
    return rng.choice(CITIES) if pick < 0.5 else made_up(rng)


def place(rng: Random) -> str:
    """A city, now and then with its country."""
    pick = rng.random()
    if pick < 0.25:
        country = rng.choice([c for c in CAPITALS if not c.startswith("the ")])
        return f"{CAPITALS[country]}, {country}"
    if pick < 0.4:
        return f"{city(rng)}, {made_up(rng)}"
    return city(rng)


def code(rng: Random) -> str:
    """A short code such as X7K2 or 4821."""
    if rng.random() < 0.4:
        return "".join(rng.choice("0123456789") for _ in range(rng.choice((3, 4, 4))))
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(rng.choice((3, 4, 4, 5))))


def lower_word(rng: Random) -> str:
    """A word in lower case, real or made up."""
    pools = (COLOURS, ANIMALS, FOODS, FRUITS, THINGS)
    return rng.choice(rng.choice(pools)) if rng.random() < 0.6 else made_up(rng).lower()
