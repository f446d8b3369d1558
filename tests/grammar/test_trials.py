"""Grammars tried out in a process: what it costs others, how it ends, and that it says what the worker itself would."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from backend.core.errors import InternalFault, WorkerUnavailable
from backend.core.request import Grammar
from backend.grammar.llguidance_engine import GuidanceCompiler
from backend.grammar.trial import Passed, Refused, try_grammar
from backend.grammar.trial_process import CPU_S, WALL_S
from backend.grammar.trials import Trials
from tests.grammar import host_grammars
from tests.grammar.dear import DEAR, chain, doubling, optional_properties
from tests.grammar.test_compiler import KINDS, REFUSED
from tests.grammar.vocabularies import BYTE_VOCABULARY

HOSTS = [name for name in vars(host_grammars) if name.isupper()]


@pytest.fixture
def trials() -> Iterator[Trials]:
    trials = Trials(BYTE_VOCABULARY)
    yield trials
    trials.close()


def outcome(trials: Trials, grammar: Grammar) -> Passed | Refused:
    """What it comes to. One that is late has said nothing of itself, but of a busy machine: it is asked again."""
    deadline = time.monotonic() + 60
    while True:
        found = trials.submit(grammar)[1].result(60)
        if not (isinstance(found, Refused) and found.failure == "late" and time.monotonic() < deadline):
            return found


def kill(pid: int | None) -> None:
    assert pid, "there is no process"
    os.kill(pid, signal.SIGKILL)


def test_what_the_process_says_is_what_would_be_said_here(trials: Trials) -> None:
    guidance = GuidanceCompiler(BYTE_VOCABULARY)
    grammars = [Grammar(kind=kind, text=text) for kind, (text, _, _) in KINDS.items()]  # type: ignore[arg-type]
    grammars += [Grammar(kind=kind, text=text) for kind, text, _ in REFUSED]
    grammars += [Grammar(kind="gbnf", text=getattr(host_grammars, name)) for name in HOSTS]
    grammars += [Grammar(kind="gbnf", text='root ::= "ab" "ab" | "abab"')]  # llguidance panics at the first try
    for grammar in grammars:
        there, here = outcome(trials, grammar), try_grammar(guidance, grammar)
        if isinstance(here, Passed):
            assert isinstance(there, Passed)
            assert there.lark == here.lark
        else:
            assert there == here


def test_too_much_memory_is_named_and_the_process_goes_on(trials: Trials) -> None:
    good = Grammar(kind="regex", text="a")
    assert isinstance(outcome(trials, good), Passed)
    pid = trials.pid
    assert outcome(trials, DEAR) == Refused("dear", "took over 128 MiB of memory to compile")
    assert isinstance(outcome(trials, good), Passed)
    assert trials.pid == pid


def test_what_leads_too_deep_ends_its_trial_alone(trials: Trials) -> None:
    """Compiled at once, a chain as long as the last overflows the stack of a thread, and with it ends the worker."""
    for length, passes in ((100, True), (5_000, False), (20_000, False)):
        found = outcome(trials, Grammar(kind="json_schema", text=chain(length)))
        assert isinstance(found, Passed) == passes
        if isinstance(found, Refused):
            assert found == Refused("dear", "took over 1.5 MiB of stack: its rules or references lead too deep")


@pytest.mark.slow
def test_too_much_time_is_named_and_ends(trials: Trials) -> None:
    started = time.monotonic()
    refused = trials.submit(Grammar(kind="json_schema", text=optional_properties(5_000)))[1].result(60)
    assert isinstance(refused, Refused)
    assert refused.failure in ("dear", "late")  # late where the machine has other work
    assert "took over" in refused.reason
    assert time.monotonic() - started < WALL_S + CPU_S + 20


def test_long_ones_hold_up_nobody(trials: Trials) -> None:
    outcome(trials, Grammar(kind="regex", text="a"))
    long = [trials.submit(Grammar(kind="json_schema", text=optional_properties(5_000, f"{i}")))[1] for i in range(12)]
    quick = [trials.submit(Grammar(kind="regex", text=f"a{{{i}}}"))[1] for i in range(1, 6)]
    assert all(isinstance(future.result(60), Passed) for future in quick)
    # In some processes the stack runs out before the time does, and then these are over at once.
    outcomes = [future.result() for future in long if future.done()]
    assert len(outcomes) < len(long) or all(isinstance(o, Refused) and "stack" in o.reason for o in outcomes)


def test_a_process_that_died_costs_no_grammar_but_one_that_keeps_dying_does(trials: Trials) -> None:
    outcome(trials, Grammar(kind="regex", text="a"))
    kill(trials.pid)
    assert isinstance(outcome(trials, Grammar(kind="regex", text="b")), Passed)
    _, future = trials.submit(Grammar(kind="json_schema", text=optional_properties(5_000)))
    for _ in range(2):
        before = trials.pid
        kill(before)
        deadline = time.monotonic() + 60
        while trials.pid in (before, None) and not future.done() and time.monotonic() < deadline:
            time.sleep(0.01)
    with pytest.raises(InternalFault):
        future.result(60)


@pytest.mark.slow
def test_a_process_that_is_stopped_is_found_and_made_anew() -> None:
    """Nothing tells of it but its silence; one that has much to do says that it is there."""
    trials = Trials(BYTE_VOCABULARY, silent_s=1.5)
    try:
        assert isinstance(outcome(trials, Grammar(kind="regex", text="a")), Passed)
        first = trials.pid
        assert first is not None
        for index in range(3):
            trials.submit(Grammar(kind="json_schema", text=optional_properties(5_000 + index)))
        assert isinstance(outcome(trials, Grammar(kind="regex", text="b")), Passed)
        assert outcome(trials, Grammar(kind="json_schema", text=optional_properties(5_004)))
        assert trials.pid == first
        psutil.Process(first).suspend()
        assert isinstance(outcome(trials, Grammar(kind="regex", text="c")), Passed)
        assert trials.pid not in (first, None)
        assert not psutil.pid_exists(first)
    finally:
        trials.close()


def test_closing_kills_the_process_and_its_trials_and_fails_what_waits(trials: Trials) -> None:
    outcome(trials, Grammar(kind="regex", text="a"))
    server = psutil.Process(trials.pid)
    futures = [trials.submit(Grammar(kind="json_schema", text=doubling(f"{i}")))[1] for i in range(3)]
    deadline = time.monotonic() + 60
    while not (forks := server.children()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert forks
    for fork in forks:
        with contextlib.suppress(psutil.NoSuchProcess):
            fork.suspend()  # none of them answers before the close
    pending = [future for future in futures if not future.done()]
    assert pending
    trials.close()
    for future in pending:
        with pytest.raises(WorkerUnavailable):
            future.result(1)
    assert not psutil.wait_procs([server, *forks], timeout=60)[1]
    with pytest.raises(WorkerUnavailable):
        trials.submit(DEAR)


def test_a_dropped_trial_gives_its_place_up(trials: Trials) -> None:
    outcome(trials, Grammar(kind="regex", text="a"))
    for i in range(40):
        number, _ = trials.submit(Grammar(kind="json_schema", text=doubling(f"{i}")))
        trials.drop(number)
    assert isinstance(outcome(trials, Grammar(kind="regex", text="b")), Passed)
    server = psutil.Process(trials.pid)
    deadline = time.monotonic() + 60
    while server.children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.children()


def test_without_its_worker_the_process_ends_with_all_its_trials() -> None:
    """A worker killed outright: the end of the input is all that its process sees."""
    code = (
        "import sys\n"
        "from backend.core.request import Grammar\n"
        "from backend.grammar.trials import Trials\n"
        "from tests.grammar.dear import optional_properties\n"
        "from tests.grammar.vocabularies import BYTE_VOCABULARY\n"
        "trials = Trials(BYTE_VOCABULARY)\n"
        "trials.submit(Grammar(kind='regex', text='a'))[1].result(60)\n"
        "trials.submit(Grammar(kind='json_schema', text=optional_properties(5_000)))\n"
        "print(trials.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdout is not None
        server = psutil.Process(int(worker.stdout.readline()))
        deadline = time.monotonic() + 60
        while not (forks := server.children()) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert forks
        for fork in forks:
            with contextlib.suppress(psutil.NoSuchProcess):
                fork.suspend()  # it does not end by itself
        worker.kill()
        assert not psutil.wait_procs([server, *forks], timeout=60)[1]


def test_the_process_has_one_thread_to_fork_and_no_mlx_or_numpy() -> None:
    code = (
        "import sys, threading, os\n"
        "import backend.grammar.trial_process as process\n"
        "from backend.grammar.llguidance_engine import GuidanceCompiler\n"
        "from backend.grammar.vocabulary import Vocabulary\n"
        "GuidanceCompiler(Vocabulary([b'a', b'<eos>'], {'<eos>': 1}, (1,)))\n"
        "assert threading.active_count() == 1\n"
        "assert not os.path.isdir('/proc/self/task') or len(os.listdir('/proc/self/task')) == 1\n"
        "print([name for name in ('mlx', 'mlx_lm', 'numpy', 'transformers', 'grpc') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr
