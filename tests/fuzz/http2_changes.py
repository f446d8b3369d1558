"""Changes of HTTP/2 connections."""

import random

from tests.e2e.http2 import PREFACE
from tests.fuzz.changing import Words, change_bytes
from tests.fuzz.wire_changes import change_wire


def change_frames(rng: random.Random, data: bytes, words: Words) -> bytes:
    """A connection's frames behind its preface: one changed, left out, doubled or moved."""
    frames = read_frames(data[len(PREFACE) :])
    preface = PREFACE if rng.random() < 0.97 else change_bytes(rng, PREFACE, words)
    for _ in range(1 + rng.randrange(3)):
        _change_frames(rng, frames, words)
    return preface + b"".join(write_frame(*frame) for frame in frames)


Frame = tuple[int, int, int, bytes, int | None]


def read_frames(data: bytes) -> list[Frame]:
    """Type, flags, stream, payload, and None for a length that is told rightly; the rest that is no frame is one."""
    frames: list[Frame] = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        stream = int.from_bytes(data[5:9], "big")
        payload = data[9 : 9 + size]
        frames.append((data[3], data[4], stream, payload, None if len(payload) == size else size))
        data = data[9 + size :]
    return frames


def write_frame(kind: int, flags: int, stream: int, payload: bytes, told: int | None) -> bytes:
    """A frame's bytes."""
    size = len(payload) if told is None else told
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _change_frames(rng: random.Random, frames: list[Frame], words: Words) -> None:
    at = rng.randrange(len(frames) + 1)
    if at == len(frames):
        frames.append((rng.randrange(11), rng.randrange(256), rng.randrange(5), rng.randbytes(rng.randrange(20)), None))
        return
    kind, flags, stream, payload, told = frames[at]
    match rng.randrange(9):
        case 0:
            del frames[at]
        case 1:
            frames[at:at] = [frames[at]] * rng.choice((1, 2, 200))
        case 2:
            frames.insert(rng.randrange(len(frames)), frames.pop(at))
        case 3:
            frames[at] = (rng.choice((rng.randrange(11), rng.randrange(256))), flags, stream, payload, told)
        case 4:
            frames[at] = (kind, flags ^ 1 << rng.randrange(8), stream, payload, told)
        case 5:
            frames[at] = (kind, flags, rng.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1)), payload, told)
        case 6:
            frames[at] = (kind, flags, stream, payload, rng.choice((0, 1, len(payload) + 1, 16384, 16385, 2**24 - 1)))
        case _:
            frames[at] = (kind, flags, stream, _changed_payload(rng, kind, payload, words), told)


def _changed_payload(rng: random.Random, kind: int, payload: bytes, words: Words) -> bytes:
    # gRPC's data: a flag, a length, a message.
    if kind == 0 and len(payload) >= 5 and rng.random() < 0.7:
        message = change_wire(rng, payload[5:], words)
        return payload[:1] + len(message).to_bytes(4, "big") + message
    return change_bytes(rng, payload, words)
