"""One target's processes, from the outside: what they tell, and what it means when they no longer do."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.fuzz.loop import Find
from tests.fuzz.process import EVERY_SECONDS, read_note
from tests.fuzz.reached import ROOT, Block, lines_of

# Beyond what an input may take; imports and the seeds come before the first sign of life.
PATIENCE_SECONDS = 150.0
MOST_DEATHS = 20


@dataclass(slots=True)
class Outcome:
    """What became of one target.

    Attributes:
        lines, all_lines: Of the files that it aims at: those reached, and how many there are in functions.
    """

    name: str
    executions: int = 0
    corpus: int = 0
    lines: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    all_lines: int = 0
    finds: dict[str, Find] = field(default_factory=dict[str, Find])

    def as_json(self) -> dict[str, object]:
        """For a file."""
        return {
            "target": self.name,
            "executions": self.executions,
            "corpus": self.corpus,
            "lines": len(self.lines),
            "of": self.all_lines,
            "finds": list(self.finds),
        }


def run(
    name: str,
    *,
    seed: int,
    seconds: float,
    folder: Path,
    patience: float = PATIENCE_SECONDS,
    until_found: bool = False,
) -> Outcome:
    """Fuzz a target for so long, in as many processes as it takes.

    Args:
        patience: Seconds without a sign of life that are a hang.
        until_found: The first find is enough.
    """
    outcome = Outcome(name)
    end = time.monotonic() + seconds
    deaths = 0
    while deaths < MOST_DEATHS and (left := end - time.monotonic()) > 0:
        note, before = folder / f"{name}-{deaths}", outcome.executions
        process = _Process(name, seed + 1000 * deaths, left, note)
        ended = process.follow(outcome, patience, until_found=until_found)
        if ended is None:
            break
        deaths += 1
        outcome.finds.setdefault(ended, Find(ended, process.said()[-1500:], read_note(note)))
        if outcome.executions == before:
            break  # it cannot even begin
    return outcome


class _Process:
    def __init__(self, name: str, seed: int, seconds: float, note: Path) -> None:
        note.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.process", name, str(seed), str(seconds), str(note)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._errors: list[str] = []
        self._blocks: list[Block] = []
        self._before = 0
        for take in (self._read_lines, self._read_errors):
            threading.Thread(target=take, daemon=True).start()

    def said(self) -> str:
        """The end of its standard error."""
        return "".join(self._errors)

    def follow(self, outcome: Outcome, patience: float, *, until_found: bool) -> str | None:
        """Take what it tells until it ends; how it died, if it did."""
        self._before = outcome.executions
        done = False
        try:
            while not done and (line := self._lines.get(timeout=patience + EVERY_SECONDS)) is not None:
                said: dict[str, Any] = json.loads(line)
                self._take(said, outcome)
                done = "done" in said or (until_found and bool(outcome.finds))
        except Empty:
            return "hangs"
        finally:
            self._end()
        return None if done else f"the process ends with code {self._process.returncode}"

    def _take(self, said: dict[str, Any], outcome: Outcome) -> None:
        if "blocks" in said:
            self._blocks = [(file, tuple(lines)) for file, lines in said["blocks"]]
            outcome.all_lines = len(lines_of(self._blocks))
        if "executions" in said:
            outcome.executions = self._before + said["executions"]
            outcome.corpus = max(outcome.corpus, said["corpus"])
            outcome.lines |= lines_of(self._blocks[number] for number in said["reached"])
            for find in said["finds"]:
                found = Find(find["what"], find["told"], bytes.fromhex(find["data"]))
                outcome.finds.setdefault(found.what, found)

    def _end(self) -> None:
        # Its own session: whatever it has started ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._process.wait()
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self._errors[:] = [*self._errors[-40:], line]
