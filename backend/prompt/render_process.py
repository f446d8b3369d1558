"""The process that renders chat templates, so that one that loops or swells can be killed.

    python -m backend.prompt.render_process

Reads jobs from standard input and writes results to standard output until the input ends.
"""

import signal
import sys

from backend.confined.frames import read_body
from backend.confined.memory import NoWatchError, limit_address_space, no_core, watched_memory
from backend.prompt.frames import MEMORY_BYTES, failure_frame, fault_frame, job_from, rendered_frame
from backend.prompt.rendering import render_job
from backend.prompt.template_environment import failure_reason, template_render

OVERTIME_S = 1.0


def _answer(body: bytes) -> bytes:
    job = job_from(body)
    # The worker kills a process that is late. If the worker is gone itself, this alarm does.
    signal.setitimer(signal.ITIMER_REAL, job.seconds + OVERTIME_S)
    try:
        with watched_memory(MEMORY_BYTES):
            rendered = render_job(template_render(job.template, job.variables, job.max_bytes), job)
    except NoWatchError as error:
        return fault_frame(str(error))
    except Exception as error:  # noqa: BLE001  templates can raise anything; all of it is an answer
        return failure_frame(failure_reason(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return rendered_frame(rendered)


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_address_space(MEMORY_BYTES)
    no_core()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while (body := read_body(source)) is not None:
        sink.write(_answer(body))
        sink.flush()


if __name__ == "__main__":
    main()
