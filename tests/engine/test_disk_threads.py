"""Threads that wait for a disk: what they hold when they have nothing to do, and a system that starts none."""

import gc
import threading
import time
import weakref

import pytest

from backend.engine import disk_threads
from backend.engine.disk_threads import DiskThreads, Job


class Kv:
    """Stands for what was read."""


def test_what_was_read_is_held_by_nobody_but_who_asked_for_it() -> None:
    """A thread that waits for its next job would hold the KV of a whole prompt."""
    threads, told = DiskThreads(1), threading.Event()
    job = threads.start(Job(lambda _: Kv(), told.set))
    assert told.wait(60)
    assert job.result is not None
    held = weakref.ref(job.result)
    del job
    until = time.monotonic() + 60
    while held() is not None:
        assert time.monotonic() < until
        gc.collect()
        time.sleep(0.01)
    threads.close()


def test_a_job_is_given_up_where_there_is_no_thread_and_run_where_there_is_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, told = DiskThreads(2), threading.Event()
    with monkeypatch.context() as patch:
        # None that another one has left.
        patch.setattr(disk_threads, "_spare", [])
        patch.setattr(threading.Thread, "start", refuse)
        job = threads.start(Job(lambda _: 1, told.set))
        assert job.done
        assert told.is_set()
        assert job.result is None
    assert threads.responsive
    job = threads.start(Job(lambda _: 1, told.set))
    assert job.wait(60)
    assert job.result == 1
    threads.close()
