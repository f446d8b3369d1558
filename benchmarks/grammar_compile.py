"""What a new grammar costs before its first token, with the process in which it is tried out and without.

    python -m benchmarks.grammar_compile [--vocab 150000] [--rounds 40]

Each round compiles every grammar twice, in random order, with a text that no cache knows: by the compiler as requests
use it, and by llguidance here at once, which is what the worker did before it had the process. What is told is the
time until the grammar is ready, first mask included. Then the same of ordinary grammars while others that take all the
time and memory they may are on their way, and what the process takes. The vocabulary is made of random words.
"""

import argparse
import json
import random
import statistics
import string
import time
from collections.abc import Callable
from concurrent.futures import Future

import psutil

from backend.core.errors import Overloaded
from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.llguidance_engine import GuidanceCompiler
from backend.grammar.trial import Passed, try_grammar
from backend.grammar.vocabulary import Vocabulary
from benchmarks.report import Report, arguments, parse
from tests.grammar import host_grammars
from tests.grammar.dear import doubling, optional_properties
from tests.grammar.schemas import random_schema

DEAR_AT_A_TIME = 4


def vocabulary(size: int) -> Vocabulary:
    """Bytes, then random words with and without a space, and bits of JSON."""
    rng = random.Random(1)
    tokens = dict.fromkeys(bytes([i]) for i in range(256))
    while len(tokens) < size - 1:
        letters = string.ascii_lowercase if rng.random() < 0.9 else '0123456789{}[]":,\n '
        word = rng.choice(["", " "]) + "".join(rng.choices(letters, k=rng.randint(2, 9)))
        tokens[word.encode()] = None
    return Vocabulary([*tokens, b"<eos>"], {"<eos>": size - 1}, (size - 1,))


def grammars(round_: int) -> dict[str, Grammar]:
    """One of each kind, which no earlier round had."""
    rng = random.Random(round_)
    host = {name: getattr(host_grammars, name) for name in ("JSON_OBJECT", "TOOLS", "MIXED_TEXT")}
    found = {f"host's {name}": Grammar(kind="gbnf", text=f"{text}\n# {round_}\n") for name, text in host.items()}
    schema = {**random_schema(rng, 3), "title": str(round_)}
    found["random JSON schema"] = Grammar(kind="json_schema", text=json.dumps(schema))
    found["300 optional properties"] = Grammar(kind="json_schema", text=optional_properties(300, f"_{round_}"))
    found["regular expression"] = Grammar(kind="regex", text=f"[a-z]{{3,{round_ + 4}}}-[0-9]+")
    return found


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def percentiles(times: list[float]) -> list[str]:
    """Median and 99th percentile."""
    return [f"{statistics.median(times):.1f}", f"{statistics.quantiles(times, n=100)[98]:.1f}"]


def measure(options: argparse.Namespace) -> None:
    """Run all rounds and report."""
    report = Report(options)
    words = vocabulary(options.vocab)
    made: list[GuidanceCompiler] = []
    took = milliseconds(lambda: made.append(GuidanceCompiler(words)))
    guidance = made[0]
    compiler = GrammarCompiler(words)
    compiler.start()
    first = milliseconds(lambda: compiler.compile(Grammar(kind="regex", text="first"), 60))
    report.note(f"vocabulary {words.size}: llguidance's tokenizer {took:.0f} ms")
    report.note(f"from the start of the compiler, its process and its tokenizer to the first grammar: {first:.0f} ms")
    here: dict[str, list[float]] = {}
    there: dict[str, list[float]] = {}
    for round_ in range(options.rounds):
        for name, grammar in grammars(round_).items():
            ways = [
                lambda g=grammar, n=name: there.setdefault(n, []).append(milliseconds(lambda: compiler.compile(g, 60))),
                lambda g=grammar, n=name: here.setdefault(n, []).append(milliseconds(lambda: at_once(guidance, g))),
            ]
            for way in random.Random(round_).sample(ways, 2):
                way()
    rows = [[name, *percentiles(here[name]), *percentiles(there[name])] for name in here]
    report.table(["grammar, ms", "at once p50", "p99", "tried out first p50", "p99"], rows)
    beside(report, compiler, options.rounds)
    process = psutil.Process(compiler.trial_pid)
    report.note(f"the process has {process.memory_info().rss >> 20} MiB resident")
    compiler.close()


def at_once(guidance: GuidanceCompiler, grammar: Grammar) -> None:
    """As the worker did."""
    assert isinstance(try_grammar(guidance, grammar), Passed)


def beside(report: Report, compiler: GrammarCompiler, rounds: int) -> None:
    """Ordinary grammars while dear ones are on their way all the time."""
    dear: list[Future[object]] = []
    spent: list[float] = []
    ordinary: list[float] = []
    for round_ in range(rounds):
        dear = [future for future in dear if not ended(future)]
        while len(dear) < DEAR_AT_A_TIME:
            text = (
                doubling(f"{round_}.{len(spent)}") if len(spent) % 2 else optional_properties(8_000, f"_{len(spent)}")
            )
            dear.append(compiler.submit(Grammar(kind="json_schema", text=text)))  # type: ignore[arg-type]
            spent.append(0)
        grammar = grammars(rounds + round_)["random JSON schema"]
        ordinary.append(milliseconds(lambda g=grammar: compiler.compile(g, 60)))
    report.note(f"{len(spent)} dear grammars, {DEAR_AT_A_TIME} at any time, refused one after another; beside them:")
    report.table(["grammar, ms", "p50", "p99"], [["random JSON schema", *percentiles(ordinary)]])


def ended(future: "Future[object]") -> bool:
    """Whether a dear grammar was refused, as it should be."""
    if not future.done():
        return False
    assert isinstance(future.exception(), Overloaded)
    return True


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--vocab", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=40)
    measure(parse(parser, vocab=5_000, rounds=4))


if __name__ == "__main__":
    main()
