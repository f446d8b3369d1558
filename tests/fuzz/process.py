"""The process that fuzzes one target, so that whatever an input does ends this and no more.

    python -m tests.fuzz.process TARGET SEED SECONDS NOTE

It writes a line of JSON to standard output each second; NOTE is a file that has the input which is running.
"""

import json
import mmap
import os
import resource
import struct
import sys
import time
from pathlib import Path
from typing import TextIO

from tests.fuzz.loop import Find, Fuzzer
from tests.fuzz.reached import Reached, files_of
from tests.fuzz.target import entry, make

EVERY_SECONDS = 1.0
NOTE_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")
# Above what MLX and the tokenizer libraries map; an input that takes more is a MemoryError.
_ADDRESS_SPACE = 16 << 30


def read_note(path: Path) -> bytes:
    """The input that ran last."""
    told = path.read_bytes()
    return told[_LENGTH.size :][: _LENGTH.unpack_from(told)[0]] if told else b""


class Note:
    """The input that is running, where a process that dies leaves it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(NOTE_BYTES))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), NOTE_BYTES)

    def __call__(self, data: bytes) -> None:
        data = data[: NOTE_BYTES - _LENGTH.size]
        self._map[: _LENGTH.size + len(data)] = _LENGTH.pack(len(data)) + data


def main(name: str, seed: int, seconds: float, note: Path) -> None:
    """Fuzz for so long."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What others write there, in C too, is not ours to tell.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reached = Reached(files_of(entry(name).aims))
    reached.install()
    _tell(out, blocks=reached.blocks)
    target = make(name)
    fuzzer = Fuzzer(target, seed=seed, reached=reached, note=Note(note))
    told: set[str] = set()
    end = time.monotonic() + seconds
    try:
        fuzzer.begin()
        while (now := time.monotonic()) < end:
            _tell_state(out, fuzzer, told)
            while time.monotonic() < min(end, now + EVERY_SECONDS):
                fuzzer.step()
    finally:
        _tell_state(out, fuzzer, told)
        target.close()
    _tell(out, done=True)


def _tell_state(out: TextIO, fuzzer: Fuzzer, told: set[str]) -> None:
    new = [find for what, find in fuzzer.finds.items() if what not in told]
    told |= fuzzer.finds.keys()
    _tell(
        out,
        executions=fuzzer.executions,
        corpus=len(fuzzer.corpus),
        reached=sorted({sign >> 4 for sign in fuzzer.signs}),
        finds=[_as_json(find) for find in new],
    )


def _as_json(find: Find) -> dict[str, str]:
    return {"what": find.what, "told": find.told, "data": find.data.hex()}


def _tell(out: TextIO, **said: object) -> None:
    out.write(json.dumps(said) + "\n")
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
