"""Code with faults, for the tests of the fuzzer itself."""

import os
import signal
import time

HELD: list[bytearray] = []


def look(data: bytes) -> None:
    """Fails on what begins with FUZZ, each letter behind another branch."""
    if len(data) > 3 and data[0] == 70:
        if data[1] == 85:
            if data[2] == 90:
                if data[3] == 90:
                    raise KeyError("found")


def endure(data: bytes) -> None:
    """Does not come to an end, takes memory, or ends the process, by the first byte."""
    match data[:1]:
        case b"l":
            while True:
                pass
        case b"m":
            HELD.append(bytearray(bytes(1 << 20) * 24))
        case b"d":
            os.abort()
        case b"h":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(1000)
        case _:
            pass
