"""Tool-call formats, one module each. A module that defines `FORMAT` is a format; nothing else lists it."""

import importlib
import pkgutil
from functools import cache

from backend.output.calls.call_format import CallFormat


@cache
def formats() -> dict[str, CallFormat]:
    """Every format by its name."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.FORMAT.name: module.FORMAT for module in modules if hasattr(module, "FORMAT")}
