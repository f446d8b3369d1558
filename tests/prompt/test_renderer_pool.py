"""Renderers of several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.core.errors import RequestAborted
from backend.prompt.renderer_pool import KEPT, RendererPool
from backend.prompt.rendering import Rendered, RenderJob


class Slow:
    """Renders when it is let go; never two jobs at once."""

    def __init__(self) -> None:
        self.jobs = 0
        self.closed = threading.Event()
        self.rendering = threading.Event()
        self.go_on = threading.Event()

    def start(self) -> None:
        pass

    def render(self, job: RenderJob) -> Rendered:
        self.jobs += 1
        assert self.jobs == 1
        self.rendering.set()
        assert self.go_on.wait(60)
        self.jobs -= 1
        return Rendered(job.template, ())

    def close(self) -> None:
        assert not self.jobs
        self.closed.set()


@pytest.fixture
def made() -> list[Slow]:
    return []


@pytest.fixture
def pool(made: list[Slow]) -> RendererPool:
    def make() -> Slow:
        made.append(Slow())
        return made[-1]

    return RendererPool(make)


def let_go(made: list[Slow], count: int) -> None:
    """Let every renderer after the first `count` render at once, when there is one."""

    def watch() -> None:
        while len(made) <= count:
            pass
        made[count].go_on.set()

    threading.Thread(target=watch, daemon=True).start()


def job(text: str) -> RenderJob:
    return RenderJob(template=text, messages=[])


def test_a_slow_job_keeps_no_other_waiting(pool: RendererPool, made: list[Slow]) -> None:
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(pool.render, job("slow"))
        while not made:
            pass
        assert made[0].rendering.wait(60)
        let_go(made, 1)
        assert pool.render(job("other")).text == "other"
        assert not slow.done()
        made[0].go_on.set()
        assert slow.result(60).text == "slow"
    assert pool.render(job("again")).text == "again"
    assert len(made) == 2


def test_one_is_begun_early_and_others_when_they_are_needed_of_which_some_are_kept(
    pool: RendererPool, made: list[Slow]
) -> None:
    pool.start()
    assert len(made) == 1
    with ThreadPoolExecutor(KEPT) as threads:
        running = [threads.submit(pool.render, job("a")) for _ in range(KEPT)]
        while len(made) < KEPT:
            pass
        assert all(renderer.rendering.wait(60) for renderer in made)
        let_go(made, KEPT)
        pool.render(job("one more"))
        for renderer in made:
            renderer.go_on.set()
        assert [future.result(60).text for future in running] == ["a"] * KEPT
    assert [renderer.closed.is_set() for renderer in made].count(True) == 1


def test_close_waits_for_no_job_and_leaves_no_renderer(pool: RendererPool, made: list[Slow]) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.render, job("a"))
        while not made:
            pass
        assert made[0].rendering.wait(60)
        pool.close()
        assert not made[0].closed.is_set()
        made[0].go_on.set()
        assert running.result(60).text == "a"
    assert made[0].closed.is_set()
    with pytest.raises(RequestAborted):
        pool.render(job("late"))
