"""Lines to a pipe that nobody reads, to one that is read again, and to one that is gone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from backend.process.log_writer import LineStream, LogWriter
from tests.process.spawned import ROOT

LINE = "l" * 999


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        try:
            os.close(end)
        except OSError:  # a test has closed it
            continue


def writer_to(descriptor: int, most_bytes: int = 200_000) -> LogWriter:
    return LogWriter(descriptor, lambda count: f"{count} dropped", most_bytes=most_bytes)


def read_lines(descriptor: int, last: str) -> list[str]:
    """Lines up to one that is `last`."""
    lines: list[str] = []
    with os.fdopen(os.dup(descriptor)) as stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            if lines[-1] == last:
                return lines
    raise AssertionError(lines[-3:])


def test_writing_never_waits_and_what_was_dropped_is_counted_where_it_is_missing(pipe: tuple[int, int]) -> None:
    writer = writer_to(pipe[1])
    began = time.monotonic()
    for _ in range(5000):
        writer.write(LINE)
    assert time.monotonic() - began < 5
    assert not writer.drain(0.05)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(read_lines(pipe[0], "end")))
    reader.start()
    assert writer.drain(60)
    writer.write("end")
    reader.join(60)
    kept = found.count(LINE)
    assert 150 < kept < 400
    # The last gap is told before the next line; the pipe may have taken some lines between two gaps.
    assert found[-2].endswith(" dropped")
    assert kept + sum(int(line.split()[0]) for line in found if line.endswith(" dropped")) == 5000


def test_a_line_after_a_gap_comes_after_the_count(pipe: tuple[int, int]) -> None:
    writer = writer_to(pipe[1], most_bytes=70_000)
    for _ in range(200):
        writer.write(LINE)
    os.read(pipe[0], 40_000)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and writer._waiting_bytes > 65_000:
        time.sleep(0.01)
    writer.write("next")
    lines = read_lines(pipe[0], "next")
    assert lines[-2].endswith(" dropped")


def test_the_last_line_is_never_dropped_and_none_comes_after_it(pipe: tuple[int, int]) -> None:
    """Other threads go on until the process is gone."""
    writer = writer_to(pipe[1])
    for _ in range(1000):
        writer.write(LINE)
    writer.finish("last words")
    for _ in range(1000):
        writer.write(LINE)
    writer.finish("others")
    assert read_lines(pipe[0], "last words")[-1] == "last words"
    assert writer.drain(60)
    os.close(pipe[1])
    assert os.read(pipe[0], 1 << 16) == b""


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    writer = writer_to(pipe[1])
    os.close(pipe[0])
    for _ in range(1000):
        writer.write(LINE)
    assert writer.drain(60)


def test_what_libraries_print_comes_line_by_line() -> None:
    lines: list[str] = []
    stream = LineStream(lines.append)
    print("a", "b", file=stream)
    stream.write("half a ")
    stream.write("line\n\nprogress 1\rprogress 2\r")
    assert lines == ["a b", "half a line", "progress 1", "progress 2"]


PRINTS_WITHOUT_END = """
import os, sys, warnings
from backend.process.log import start_log
log = start_log("info")
for _ in range(5000):
    print("p" * 1000)
    print("e" * 1000, file=sys.stderr)
    warnings.warn("w" * 1000)
{native}
log.last_words("the end")
log.close()
os._exit(7)
"""
NATIVE = """
for _ in range(1000):
    try:
        os.write(2, b"n" * 1000)
    except BlockingIOError:
        pass
"""


@pytest.mark.parametrize(
    "native",
    [
        "",
        pytest.param(NATIVE, marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux opens a pipe anew")),
    ],
)
def test_a_process_whose_standard_streams_nobody_reads_prints_and_ends(native: str) -> None:
    command = [sys.executable, "-c", PRINTS_WITHOUT_END.replace("{native}", native)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.communicate()
