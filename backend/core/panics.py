"""Failures inside libraries written in Rust, which are no `Exception` to Python."""


def is_panic(error: BaseException) -> bool:
    """Whether a library has failed in itself.

    Each library that pyo3 binds has a class of its own for it, which cannot be imported and derives from
    `BaseException`; they have the name in common.
    """
    return type(error).__name__ == "PanicException"
