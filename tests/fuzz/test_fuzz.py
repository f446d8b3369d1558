"""A slice of the fuzzing with every change; and that the fuzzer finds what is there to be found."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.changing import change_text
from tests.fuzz.http2_changes import change_frames, read_frames, write_frame
from tests.fuzz.loop import Fuzzer
from tests.fuzz.reached import ROOT, Reached, files_of, lines_of
from tests.fuzz.running import Outcome, run
from tests.fuzz.structures import change_json, change_safetensors
from tests.fuzz.target import QUICK, TARGETS, make
from tests.fuzz.targets.planted import planted
from tests.fuzz.wire_changes import change_wire, read_wire, write_wire

# Seconds of a processor for all of them together.
SLICE = 60


@pytest.mark.parametrize("name", QUICK)
def test_a_slice_of_the_inputs_breaks_no_contract(name: str) -> None:
    target = make(name)
    try:
        fuzzer = Fuzzer(target, seed=1)
        fuzzer.begin()
        for _ in range(SLICE):
            fuzzer.step()
    finally:
        target.close()
    assert fuzzer.executions == len(target.seeds) + SLICE
    assert not fuzzer.finds, fuzzer.finds


@pytest.mark.parametrize("name", QUICK)
def test_a_target_has_a_seed_that_is_not_refused(name: str) -> None:
    target = make(name)
    try:
        assert any(accepted(target.run, seed) for seed in target.seeds)
    finally:
        target.close()


def accepted(work: Callable[[bytes], object], data: bytes) -> bool:
    try:
        work(data)
    except Exception:  # noqa: BLE001  whatever it is
        return False
    return True


def fuzz(name: str, folder: Path, *, seconds: float = 20.0, **how: Any) -> Outcome:
    return run(name, seed=1, seconds=seconds, folder=folder, **how)


@pytest.mark.slow
def test_what_is_behind_branches_is_found_by_what_is_reached_and_not_without(tmp_path: Path) -> None:
    outcome = fuzz("planted", tmp_path, until_found=True)
    ((what, find),) = outcome.finds.items()
    assert what.startswith("KeyError at tests/fuzz/targets/planted_code.py:") and find.data[:4] == b"FUZZ"
    assert len(outcome.lines) == 5 and outcome.all_lines > 5
    blind = Fuzzer(planted(), seed=1)
    blind.begin()
    for _ in range(outcome.executions):
        blind.step()
    assert not blind.finds


@pytest.mark.slow
def test_what_takes_time_or_memory_is_found(tmp_path: Path) -> None:
    outcome = fuzz("planted_ends", tmp_path, seconds=4.0)
    found = {what.split(" at ")[0]: find.data for what, find in outcome.finds.items()}
    assert found == {"over 0.5 s": b"l", "over 16 MiB": b"m"}


@pytest.mark.slow
def test_an_input_that_ends_the_process_is_known_and_the_fuzzing_goes_on(tmp_path: Path) -> None:
    outcome = fuzz("planted_death", tmp_path, seconds=6.0)
    ((what, find),) = outcome.finds.items()
    assert (what, find.data) == ("the process ends with code -6", b"d!")
    assert len(list(tmp_path.iterdir())) > 1


@pytest.mark.slow
def test_an_input_that_nothing_in_the_process_can_end_is_known(tmp_path: Path) -> None:
    outcome = fuzz("planted_hang", tmp_path, seconds=3.0, patience=2.0)
    assert {what: find.data for what, find in outcome.finds.items()} == {"hangs": b"h!"}


def test_lines_are_told_by_block() -> None:
    reached = Reached([ROOT / "tests/fuzz/targets/planted_code.py"])
    source = (ROOT / "tests/fuzz/targets/planted_code.py").read_text().splitlines()
    told = {source[line - 1].strip() for _, line in lines_of(reached.blocks)}
    assert {"if data[1] == 85:", 'raise KeyError("found")', "match data[:1]:", "os.abort()", "pass"} <= told
    assert not {line for line in told if line.startswith(("def ", "import ", '"""'))}


def test_every_target_aims_at_files_that_there_are() -> None:
    for entry in TARGETS.values():
        assert all((ROOT / aim).exists() for aim in entry.aims), entry
        assert bool(files_of(entry.aims)) == bool(entry.aims)


def test_changes_leave_structures_that_can_be_read_most_of_the_time() -> None:
    rng = random.Random(1)
    frames = make_frames()
    read = {"json": 0, "wire": 0, "frames": 0, "header": 0}
    for _ in range(200):
        read["json"] += accepted(json.loads, change_json(rng, b'{"a": [1, {"b": "c"}], "d": null}', [b"x"]))
        read["wire"] += read_wire(change_wire(rng, write_wire([(1, 2, b"a"), (2, 0, 5)]), [b"x"])) is not None
        read["frames"] += change_frames(rng, frames, [b"x"]).startswith(frames[:24])
        header = change_safetensors(rng, b"\2\0\0\0\0\0\0\0{}", [b"x"])
        read["header"] += int.from_bytes(header[:8], "little") <= len(header)
        change_text(rng, "é{a}".encode(), [b"x"]).decode()
    assert min(read.values()) > 100, read


def make_frames() -> bytes:
    from tests.e2e.http2 import PREFACE

    data = PREFACE + write_frame(4, 0, 0, b"", None) + write_frame(1, 4, 1, b"abc", None)
    assert [frame[3] for frame in read_frames(data[len(PREFACE) :])] == [b"", b"abc"]
    return data


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fuzzing_every_target_for_some_seconds_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "3"]) == 0, capsys.readouterr().out
