"""Several renderers, so that a template at its time limit keeps only its own request waiting."""

import threading
from collections.abc import Callable

from backend.core.errors import RequestAborted
from backend.prompt.renderer import Renderer
from backend.prompt.rendering import Rendered, RenderJob

# As many as render short conversations at once, one of them for TokenizeString; one more, for a long one, is gone when
# it is done.
KEPT = 3


class RendererPool:
    """A renderer itself, for any thread: as many as render at once, each with one job at a time.

    Invariant: a renderer is in `_idle`, or with the one thread that renders on it; at most `KEPT` are idle.
    """

    def __init__(self, make: Callable[[], Renderer]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._idle: list[Renderer] = []
        self._closed = False

    def start(self) -> None:
        """Get one ready early; another is started for conversations that come at once."""
        renderer = self._take()
        renderer.start()
        self._give_back(renderer)

    def render(self, job: RenderJob) -> Rendered:
        """Render a job.

        Raises:
            InvalidRequest: The template refuses, fails, or takes too long.
            RequestAborted: The pool is closed.
        """
        renderer = self._take()
        try:
            return renderer.render(job)
        finally:
            self._give_back(renderer)

    def close(self) -> None:
        """Close those that are idle now, and each of the others when its job is over. Waits for no job."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for renderer in idle:
            renderer.close()

    def _take(self) -> Renderer:
        with self._lock:
            if self._closed:
                raise RequestAborted("the model was unloaded")
            return self._idle.pop() if self._idle else self._make()

    def _give_back(self, renderer: Renderer) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append(renderer)
                return
        renderer.close()
