"""The process in which grammars are tried out before the worker compiles them itself.

    python -m backend.grammar.trial_process

Its input is a frame with the vocabulary, then one with each grammar to try (`{"id", "kind", "text"}`), or with one
that nobody wants any more (`{"drop"}`); its output a frame with what came of each. Asked whether it is there
(`{"ask"}`), it says so. It ends when its input does.

Each trial runs in a fork of this process: llguidance's tokenizer, which takes longest to make, is there already, a
trial that is killed costs nothing but itself, and its memory is gone with it. Forking is safe because there is one
thread here, and nothing but Python and llguidance. There is no MLX.
"""

import gc
import os
import pickle
import resource
import selectors
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Never

from backend.confined.frames import Frames, pack, unpack
from backend.confined.memory import EXIT_CODE as OUT_OF_MEMORY
from backend.confined.memory import address_space, limit_address_space, no_core, peak_bytes, watched_memory
from backend.core.request import Grammar
from backend.grammar.lanes import Lanes
from backend.grammar.llguidance_engine import GuidanceCompiler
from backend.grammar.trial import Passed, Refused, outcome_fields, try_grammar
from backend.grammar.vocabulary import Vocabulary

MEMORY_BYTES = 128 << 20
CPU_S = 1.5
WALL_S = 4.0
LONG_NICENESS = 10

# Above what is watched, so that the watch, which can say what happened, comes first; threads map stacks and heaps.
_ADDRESS_SPACE = MEMORY_BYTES + (512 << 20)
# Less than a thread of the worker has, where the same grammar is compiled again.
_STACK_BYTES = 3 << 19
_CHUNK = 1 << 18

_TOO_LONG = Refused("dear", f"took over {CPU_S:g} s of processor time to compile")
_TOO_LATE = Refused("late", f"took over {WALL_S:g} s to compile")
_TOO_LARGE = Refused("dear", f"took over {MEMORY_BYTES >> 20} MiB of memory to compile")
_BROKEN = Refused("fault", "the process that compiles it failed")
_TOO_DEEP = Refused(
    "dear", f"took over {_STACK_BYTES / (1 << 20):g} MiB of stack: its rules or references lead too deep"
)
# Any other code: the watch, an allocation that failed (SIGABRT), the system's own killer.
_ENDED_BY = {
    -signal.SIGPROF: _TOO_LONG,
    -signal.SIGALRM: _TOO_LATE,
    -signal.SIGSEGV: _TOO_DEEP,
    -signal.SIGBUS: _TOO_DEEP,  # macOS
    1: _BROKEN,
}
_NO_ROOM = Refused("busy", "the system has no room for the process that compiles it")
_CROWDED = Refused("busy", "other large grammars are still being compiled")


@dataclass(slots=True)
class _Trial:
    """A grammar on its way, and its process while it has one."""

    number: int
    grammar: Grammar
    pid: int = 0
    pipe: int = -1
    frames: Frames = field(default_factory=Frames)


class TrialServer:
    """Owns the forks. Invariant: a trial is in `_trials` exactly while an answer is owed for it."""

    def __init__(self, guidance: GuidanceCompiler, source: int, sink: int) -> None:
        self._guidance = guidance
        self._source = source
        self._sink = sink
        self._lanes = Lanes()
        self._trials: dict[int, _Trial] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(source, selectors.EVENT_READ)

    def serve(self, frames: Frames, bodies: list[bytes]) -> None:
        """Until the input ends; then every fork is killed. `bodies` came with the first frame, the rest in `frames`."""
        for body in bodies:
            self._take(unpack(body))
        self._carry_out()
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.fd != self._source:
                    self._hear(key.data)
                    continue
                data = os.read(self._source, _CHUNK)
                if not data:
                    return self._stop_all()
                for body in frames.push(data):
                    self._take(unpack(body))
            self._carry_out()

    def _patience(self) -> float | None:
        change = self._lanes.next_change()
        return None if change is None else max(0.0, change - time.monotonic())

    def _take(self, wanted: dict[str, Any]) -> None:
        if "ask" in wanted:
            return _write(self._sink, {"here": True})
        if "drop" in wanted:
            trial = self._trials.pop(wanted["drop"], None)
            if trial is not None:
                self._lanes.remove(trial.number)
                self._kill(trial)
            return None
        if wanted["id"] in self._trials:
            return None  # sent again by a worker that had not sent it yet when another process died
        trial = _Trial(wanted["id"], Grammar(kind=wanted["kind"], text=wanted["text"]))
        self._trials[trial.number] = trial
        self._lanes.add(trial.number)

    def _carry_out(self) -> None:
        plan = self._lanes.plan(time.monotonic())
        for number in plan.stop:
            self._kill(self._trials[number])
        for number in plan.refuse:
            self._kill(self._trials[number])
            self._answer(self._trials[number], outcome_fields(_CROWDED))
        for number in plan.lengthen:
            os.setpriority(os.PRIO_PROCESS, self._trials[number].pid, LONG_NICENESS)
        for number, long in plan.start:
            self._start(self._trials[number], long)

    def _start(self, trial: _Trial, long: bool) -> None:
        try:
            pipe, end = os.pipe()
        except OSError:
            return self._cannot_start(trial)
        try:
            pid = os.fork()
        except OSError:
            os.close(pipe)
            os.close(end)
            return self._cannot_start(trial)
        if pid == 0:
            os.close(pipe)
            _run_fork(self._guidance, trial.grammar, end, long)
        os.close(end)
        trial.pid, trial.pipe, trial.frames = pid, pipe, Frames()
        self._selector.register(pipe, selectors.EVENT_READ, trial)

    def _cannot_start(self, trial: _Trial) -> None:
        self._lanes.remove(trial.number)
        self._answer(trial, outcome_fields(_NO_ROOM))

    def _hear(self, trial: _Trial) -> None:
        if trial.pipe < 0:
            return  # killed by what was heard before it, in the same turn
        data = os.read(trial.pipe, _CHUNK)
        if data:
            for body in trial.frames.push(data):
                self._lanes.remove(trial.number)
                self._answer(trial, unpack(body))  # now: leaving takes a fork as long as an ordinary grammar
            return
        status = self._reap(trial)
        if trial.number in self._trials:
            self._lanes.remove(trial.number)
            self._answer(trial, outcome_fields(_ENDED_BY.get(status, _TOO_LARGE)))

    def _answer(self, trial: _Trial, fields: dict[str, Any]) -> None:
        del self._trials[trial.number]
        _write(self._sink, {"id": trial.number, **fields})

    def _kill(self, trial: _Trial) -> None:
        if trial.pid:
            os.kill(trial.pid, signal.SIGKILL)
            self._reap(trial)

    def _reap(self, trial: _Trial) -> int:
        self._selector.unregister(trial.pipe)
        os.close(trial.pipe)
        _, status = os.waitpid(trial.pid, 0)
        trial.pid, trial.pipe = 0, -1
        return os.waitstatus_to_exitcode(status)

    def _stop_all(self) -> None:
        for trial in self._trials.values():
            self._kill(trial)


def _run_fork(guidance: GuidanceCompiler, grammar: Grammar, end: int, long: bool) -> Never:
    # Whatever happens, this process must not go on as the server that it is a copy of.
    code = 1
    try:
        _confine(long)
        _write(end, outcome_fields(_tried(guidance, grammar)))
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        os._exit(code)


def _tried(guidance: GuidanceCompiler, grammar: Grammar) -> Passed | Refused:
    before = peak_bytes()
    with watched_memory(before + MEMORY_BYTES):
        outcome = try_grammar(guidance, grammar)
    return replace(outcome, memory=peak_bytes() - before) if isinstance(outcome, Passed) else outcome


def _write(sink: int, fields: dict[str, Any]) -> None:
    frame = memoryview(pack(fields))
    while frame:
        frame = frame[os.write(sink, frame) :]


def _confine(long: bool) -> None:
    # Its input is the server's: held open here, the worker would not notice that the server has gone.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    if long:
        os.nice(LONG_NICENESS)
    # By their default action, which ends the process wherever it is, in llguidance as in Python.
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    in_use = address_space()
    if in_use is not None:
        limit_address_space(in_use + _ADDRESS_SPACE)
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))


def vocabulary_frame(vocabulary: Vocabulary) -> bytes:
    """The body of the first frame. Pickled: it comes from the worker, which is trusted."""
    return pickle.dumps((list(vocabulary.tokens), dict(vocabulary.special), vocabulary.eos_ids), 5)


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    no_core()
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    frames = Frames()
    bodies: list[bytes] = []
    while not bodies:
        data = os.read(source, _CHUNK)
        if not data:
            return
        bodies = frames.push(data)
    guidance = GuidanceCompiler(Vocabulary(*pickle.loads(bodies.pop(0))))
    # What is here stays; a collection in a fork would only copy its pages.
    gc.collect()
    gc.freeze()
    TrialServer(guidance, source, sink).serve(frames, bodies)


if __name__ == "__main__":
    main()
