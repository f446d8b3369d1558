"""Grammars are tried out where it can do no harm, then compiled here, and kept."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from backend.core.errors import InternalFault, WorkerUnavailable
from backend.core.pools import start_threads
from backend.core.request import Grammar
from backend.grammar.compiled import CompiledGrammar
from backend.grammar.constraints import token_mask
from backend.grammar.dialects import MAX_TEXT_BYTES
from backend.grammar.llguidance_engine import GuidanceCompiler, GuidanceError, GuidanceLimit
from backend.grammar.trial import DearGrammar, Passed, Refused, check_first_mask
from backend.grammar.trials import Outcome, Trials
from backend.grammar.vocabulary import Vocabulary

THREADS = 3


@dataclass(frozen=True, slots=True)
class CompilerLimits:
    """Attributes:
    max_grammars, max_bytes: Of the cache; bytes are those that compiling took and slow masks may have added.
    max_refused: Refusals that are remembered.
    """

    max_grammars: int = 64
    max_bytes: int = 256 << 20
    max_refused: int = 256


@dataclass(slots=True)
class _Compiling:
    """A grammar on its way, and who waits for it."""

    trial: int
    waiters: list["Future[CompiledGrammar]"] = field(default_factory=list["Future[CompiledGrammar]"])


class GrammarCompiler:
    """Compiles grammars for one model. Any thread may call, and none of the methods waits for a grammar.

    A grammar is tried out in a process first (`trial_process.py`), in bounded time and memory. Only one that passes
    is compiled here, on a thread, without the interpreter lock: that takes what the trial took, and cannot be killed.
    Building llguidance's tokenizer holds the lock, 0.25 s for 150,000 tokens, once: `start` does it while the model
    loads.
    """

    def __init__(self, vocabulary: Vocabulary, limits: CompilerLimits | None = None) -> None:
        self._vocabulary = vocabulary
        self._limits = limits or CompilerLimits()
        self._trials = Trials(vocabulary)
        self._executor = ThreadPoolExecutor(THREADS, "grammar")
        self._making = Lock()  # of what `_ready` makes
        self._guidance: GuidanceCompiler | None = None
        self._line_breaks: NDArray[np.uint32] | None = None
        # Of what follows; held for no work.
        self._lock = Lock()
        self._closed = False
        self._compiling: dict[Grammar, _Compiling] = {}
        self._cache: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._refused: OrderedDict[int, Refused] = OrderedDict()  # by the grammar's hash: they may be large

    @property
    def trial_pid(self) -> int | None:
        """The process in which grammars are tried out, if it runs."""
        return self._trials.pid

    def start(self) -> None:
        """Build the tokenizer and start the process and the threads early; the first grammar would.

        Raises:
            RuntimeError: The system starts no more threads.
        """
        self._trials.start()
        start_threads(self._executor, THREADS)
        self._executor.submit(self._ready)

    def submit(self, grammar: Grammar) -> "Future[CompiledGrammar]":
        """Compile. The future is the caller's own: cancelled, it stops the work if nobody else wants it.

        It raises InvalidRequest (not a grammar, not supported), Overloaded (it takes too much, or there are too
        many), or WorkerUnavailable (the compiler was closed meanwhile).

        Raises:
            DearGrammar: The text is too large.
            WorkerUnavailable: The compiler is closed.
        """
        size = len(grammar.text.encode(errors="replace"))
        if size > MAX_TEXT_BYTES:
            raise DearGrammar(f"is {size} bytes, limit {MAX_TEXT_BYTES}")
        future: Future[CompiledGrammar] = Future()
        with self._lock:
            if self._closed:
                raise WorkerUnavailable("the grammar compiler is closed")
            known = self._known(grammar)
            trial = self._wait_for(grammar, future) if known is None else None
        if isinstance(known, CompiledGrammar):
            future.set_result(known)
        elif known is not None:
            future.set_exception(known.error())
        # Out here: a callback may come at once, and takes the lock.
        future.add_done_callback(partial(self._left, grammar))
        if trial is not None:
            trial.add_done_callback(partial(self._tried, grammar))
        return future

    def compile(self, grammar: Grammar, seconds: float = 30.0) -> CompiledGrammar:
        """Compile and wait.

        Raises:
            WorkerError: As `submit` and its future.
            TimeoutError: It is late.
        """
        return self.submit(grammar).result(seconds)

    def close(self) -> None:
        """Compile nothing more, and wait for nothing: whoever waits gets `WorkerUnavailable`."""
        with self._lock:
            self._closed = True
            left = list(self._compiling)
        self._trials.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        for grammar in left:
            self._settle(grammar, WorkerUnavailable("the grammar compiler is closed"))

    # Under the lock

    def _known(self, grammar: Grammar) -> CompiledGrammar | Refused | None:
        compiled = self._cache.get(grammar)
        if compiled is None:
            return self._refused.get(hash(grammar))
        if compiled.spent:
            del self._cache[grammar]
            return None
        self._cache.move_to_end(grammar)
        return compiled

    def _wait_for(self, grammar: Grammar, future: "Future[CompiledGrammar]") -> "Future[Outcome] | None":
        """The trial that this starts, if nobody has yet."""
        compiling = self._compiling.get(grammar)
        if compiling is not None:
            compiling.waiters.append(future)
            return None
        number, trial = self._trials.submit(grammar)
        self._compiling[grammar] = _Compiling(number, [future])
        return trial

    def _keep(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        self._cache[grammar] = compiled
        while len(self._cache) > self._limits.max_grammars or self._cached_bytes() > self._limits.max_bytes:
            self._cache.popitem(last=False)

    def _cached_bytes(self) -> int:
        return sum(compiled.bytes for compiled in self._cache.values())

    def _keep_refused(self, grammar: Grammar, refused: Refused) -> None:
        self._refused[hash(grammar)] = refused
        while len(self._refused) > self._limits.max_refused:
            self._refused.popitem(last=False)

    # As it goes on

    def _left(self, grammar: Grammar, future: "Future[CompiledGrammar]") -> None:
        """A waiter has its result, or has gone."""
        if not future.cancelled():
            return
        with self._lock:
            compiling = self._compiling.get(grammar)
            if compiling is None or any(not waiter.cancelled() for waiter in compiling.waiters):
                return
            del self._compiling[grammar]
        self._trials.drop(compiling.trial)

    def _tried(self, grammar: Grammar, trial: "Future[Outcome]") -> None:
        error = trial.exception()
        if error is not None:
            self._settle(grammar, error)
            return
        outcome = trial.result()
        if isinstance(outcome, Passed):
            try:
                self._executor.submit(self._compile, grammar, outcome)
            except RuntimeError as closed_or_no_thread:
                closed = WorkerUnavailable("the grammar compiler is closed")
                self._settle(grammar, closed if self._closed else InternalFault(str(closed_or_no_thread)))
            return
        if outcome.lasting:
            with self._lock:
                self._keep_refused(grammar, outcome)
        self._settle(grammar, outcome.error())

    def _compile(self, grammar: Grammar, passed: Passed) -> None:
        try:
            guidance, line_breaks = self._ready()
            matcher = guidance.compile(passed.lark)
            check_first_mask(matcher)  # makes the lexer's first states here, rather than in a step
            result: CompiledGrammar | BaseException
            result = CompiledGrammar(matcher, self._vocabulary, line_breaks, passed.memory + len(grammar.text))
        except GuidanceError as error:
            failure = "dear" if isinstance(error, GuidanceLimit) else "wrong"
            result = Refused(failure, str(error), error.line).error()
        except Exception as error:  # noqa: BLE001  whoever waits must hear of it
            result = error
        self._settle(grammar, result)

    def _ready(self) -> tuple[GuidanceCompiler, NDArray[np.uint32]]:
        with self._making:
            if self._guidance is None or self._line_breaks is None:
                self._guidance = GuidanceCompiler(self._vocabulary)
                breaks = [i for i, data in enumerate(self._vocabulary.tokens) if data and not data.strip(b"\n")]
                self._line_breaks = token_mask(breaks, -(-self._vocabulary.size // 32))
            return self._guidance, self._line_breaks

    def _settle(self, grammar: Grammar, result: CompiledGrammar | BaseException) -> None:
        with self._lock:
            compiling = self._compiling.pop(grammar, None)
            if isinstance(result, CompiledGrammar) and not self._closed:
                self._keep(grammar, result)
        for waiter in compiling.waiters if compiling else ():
            if not waiter.set_running_or_notify_cancel():
                continue
            if isinstance(result, CompiledGrammar):
                waiter.set_result(result)
            else:
                waiter.set_exception(result)
