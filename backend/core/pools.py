"""Pools whose threads are there before they are needed."""

import threading
from concurrent.futures import ThreadPoolExecutor


def start_threads(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start all threads of a new pool, so that what uses it later fails for no thread that the system lacks by then.

    Args:
        threads: As many as the pool may have.

    Raises:
        RuntimeError: The system starts no more; the pool is shut down.
    """
    together = threading.Barrier(threads)
    try:
        for _ in range(threads):
            pool.submit(together.wait)
    except RuntimeError:
        together.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
