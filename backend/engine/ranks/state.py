"""What a rank holds, as a number that is compared between ranks. Pure."""

import json
import zlib
from collections.abc import Mapping, Sequence


def digest(held: Mapping[int, Sequence[int]]) -> int:
    """A checksum of what is held under each handle, in numbers that are equal on all ranks."""
    return zlib.crc32(json.dumps(sorted((handle, list(numbers)) for handle, numbers in held.items())).encode())
