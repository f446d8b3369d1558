"""Grammars to constraints, on a thread of its own, with limits and a cache."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from backend.core.constraint import Constraint
from backend.core.errors import InvalidRequest, WorkerUnavailable
from backend.core.request import Grammar
from backend.grammar.constraints import GrammarConstraint, TextConstraint, token_mask
from backend.grammar.dialects import to_lark
from backend.grammar.llguidance_engine import GuidanceCompiler, GuidanceError, GuidancePanic, Matcher
from backend.grammar.vocabulary import Vocabulary
from backend.grammar.waiting import Activation, AfterReasoning, AfterTrigger

AT_ONCE = Activation()


class CompiledGrammar:
    """Immutable; shared by the requests that send the same grammar. Any thread."""

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary, line_breaks: NDArray[np.uint32]) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._line_breaks = line_breaks

    def constraint(self, activation: Activation = AT_ONCE) -> Constraint:
        """A constraint for one answer, at its beginning; takes some 10 us."""
        bytes_of = self._vocabulary.tokens.__getitem__
        inner: TextConstraint
        if activation.trigger:
            inner = AfterTrigger(self._plain, activation.trigger, bytes_of)
        else:
            inner = self._plain()
        if not activation.reasoning_end or not (activation.in_reasoning or activation.reasoning_start_ids):
            return inner
        return AfterReasoning(inner, activation, bytes_of, self._line_breaks)

    def _plain(self) -> GrammarConstraint:
        return GrammarConstraint(self._matcher.copy(), len(self._line_breaks))


@dataclass(frozen=True, slots=True)
class CompilerLimits:
    """Attributes:
    max_grammars, max_bytes: Of the cache; bytes are those of the grammars' texts.
    seconds: A request waits no longer for its grammar.
    """

    max_grammars: int = 64
    max_bytes: int = 8 << 20
    seconds: float = 10.0


class GrammarCompiler:
    """Compiles grammars for one model. Any thread may call; the work is done on one thread of its own.

    llguidance bounds its own work (tested with grammars made to explode: under a second each), so that thread is
    late at most. Building its tokenizer holds the interpreter lock, 0.25 s for 150,000 tokens, once: `start` does it
    while the model loads.
    """

    def __init__(self, vocabulary: Vocabulary, limits: CompilerLimits | None = None) -> None:
        self._vocabulary = vocabulary
        self._limits = limits or CompilerLimits()
        self._executor = ThreadPoolExecutor(1, "grammar")
        self._lock = Lock()
        self._cache: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._bytes = 0
        # Of the executor's thread alone.
        self._guidance: GuidanceCompiler | None = None
        self._line_breaks: NDArray[np.uint32] | None = None

    def start(self) -> None:
        """Build the tokenizer early; the first grammar would."""
        self._executor.submit(self._ready)

    def submit(self, grammar: Grammar) -> "Future[CompiledGrammar]":
        """Compile; the future raises what `compile` raises, but for the time limit, which is the waiter's.

        Raises:
            WorkerUnavailable: The compiler is closed.
        """
        with self._lock:
            known = self._cache.get(grammar)
            if known is not None:
                self._cache.move_to_end(grammar)
        if known is not None:
            done: Future[CompiledGrammar] = Future()
            done.set_result(known)
            return done
        try:
            return self._executor.submit(self._compile, grammar)
        except RuntimeError as error:
            raise WorkerUnavailable("the grammar compiler is closed") from error

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compile and wait.

        Raises:
            InvalidRequest: Not a grammar, not supported, over a limit, or late.
            WorkerUnavailable: The compiler is closed.
        """
        future = self.submit(grammar)
        try:
            return future.result(self._limits.seconds)
        except FutureTimeout as error:
            future.cancel()
            raise InvalidRequest("Grammar", f"took over {self._limits.seconds:g} s to compile") from error

    def close(self) -> None:
        """Compile nothing more. What runs is waited for; it is bounded."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _ready(self) -> GuidanceCompiler:
        if self._guidance is None:
            self._guidance = GuidanceCompiler(self._vocabulary)
            breaks = [i for i, data in enumerate(self._vocabulary.tokens) if data and not data.strip(b"\n")]
            self._line_breaks = token_mask(breaks, -(-self._vocabulary.size // 32))
        return self._guidance

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        with self._lock:
            if grammar in self._cache:
                return self._cache[grammar]
        guidance = self._ready()
        assert self._line_breaks is not None
        matcher = _matcher(guidance, grammar)
        _check_first_mask(matcher, len(self._line_breaks))
        compiled = CompiledGrammar(matcher, self._vocabulary, self._line_breaks)
        self._keep(grammar, compiled)
        return compiled

    def _keep(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        with self._lock:
            self._cache[grammar] = compiled
            self._bytes += len(grammar.text)
            while len(self._cache) > self._limits.max_grammars or self._bytes > self._limits.max_bytes:
                dropped, _ = self._cache.popitem(last=False)
                self._bytes -= len(dropped.text)


def _matcher(guidance: GuidanceCompiler, grammar: Grammar) -> Matcher:
    try:
        try:
            return guidance.compile(to_lark(grammar))
        except GuidancePanic:
            if grammar.kind != "gbnf":
                raise
            # llguidance 1.9.1 panics on options with the same text cut in different places ("ab" "ab" | "abab");
            # single characters leave it nothing to cut.
            return guidance.compile(to_lark(grammar, finest=True))
    except GuidanceError as error:
        raise InvalidRequest("Grammar", str(error)) from error


def _check_first_mask(matcher: Matcher, words: int) -> None:
    """Work out the first mask here, where it may take its time, and refuse a grammar that cannot begin."""
    mask = np.zeros(words, np.uint32)
    matcher.fill(mask)
    if error := matcher.error:
        raise InvalidRequest("Grammar", error)
    if not mask.any():
        raise InvalidRequest("Grammar", "matches no text that the model's tokens can write")
