"""The names of models: addresses of the hub and of files, as hosts write them."""

from urllib.parse import unquote

HUB_PREFIXES = ("huggingface://", "hf://", "https://huggingface.co/", "http://huggingface.co/")
FILE_PREFIX = "file://"


def hub_path(name: str) -> str | None:
    """What follows the hub's address in `name`, such as `owner/name`; None where it does not begin with one."""
    for prefix in HUB_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).strip("/")
    return None


def file_path(name: str) -> str:
    """The path in a `file://` address, its percent signs decoded (RFC 8089); any other name as it is."""
    return unquote(name.removeprefix(FILE_PREFIX)) if name.startswith(FILE_PREFIX) else name
