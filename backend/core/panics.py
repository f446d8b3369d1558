"""Failures inside libraries written in Rust, which are no `Exception` to Python."""

from collections.abc import Generator
from contextlib import contextmanager


def is_panic(error: BaseException) -> bool:
    """Whether a library has failed in itself.

    Each library that pyo3 binds has a class of its own for it, which cannot be imported and derives from
    `BaseException`; they have the name in common.
    """
    return type(error).__name__ == "PanicException"


@contextmanager
def tokenizers_code() -> Generator[None]:
    """Around a checkpoint's own tokenizer, whose ways to end a thread become errors of the request alone.

    Raises:
        RuntimeError: It wants to end the process, which from an executor's thread would end the event loop; or its
            library has failed in itself, which is no `Exception` and so nobody's, who waits or keeps others from harm.
    """
    try:
        yield
    except SystemExit as error:
        raise RuntimeError("the tokenizer's code wants to end the process") from error
    except BaseException as error:
        if is_panic(error):
            raise RuntimeError("the tokenizer's library has failed in itself") from error
        raise
