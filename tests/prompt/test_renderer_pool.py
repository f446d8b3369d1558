"""Renderers of several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.core.errors import RequestAborted
from backend.prompt.renderer_pool import RendererPool
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
        assert self.go_on.wait(10)
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


def job(text: str) -> RenderJob:
    return RenderJob(template=text, messages=[])


def test_a_slow_job_keeps_no_other_waiting(pool: RendererPool, made: list[Slow]) -> None:
    pool.start()
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(pool.render, job("slow"))
        assert made[0].rendering.wait(10)
        other = threads.submit(pool.render, job("other"))
        while len(made) < 2:
            pass
        made[1].go_on.set()
        assert other.result(10).text == "other"
        assert not slow.done()
        made[0].go_on.set()
        assert slow.result(10).text == "slow"
    assert pool.render(job("again")).text == "again"
    assert len(made) == 2


def test_close_waits_for_no_job_and_leaves_no_renderer(pool: RendererPool, made: list[Slow]) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(pool.render, job("a"))
        while not made:
            pass
        assert made[0].rendering.wait(10)
        pool.close()
        assert not made[0].closed.is_set()
        made[0].go_on.set()
        assert running.result(10).text == "a"
    assert made[0].closed.is_set()
    with pytest.raises(RequestAborted):
        pool.render(job("late"))
