"""What is found, what is written when, and what goes first: over fake caches, whose entries are their own prefixes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from mlx_cache import Reason
from mlx_cache.disk.names import parse
from tests.mlx_cache.disk.parts import Clock, FaultySystem, files, over, put, template, tier
from tests.mlx_cache.fake import LAYOUTS
from tests.mlx_cache.oracle import check_content

TEXT = list(range(1, 23))


def stored(path: Path, *sequences: list[int], layout: str = "plain", space: str = "m") -> None:
    """What a worker leaves that stored these and was shut down."""
    disk = tier(path)
    cache = over(disk)
    for tokens in sequences:
        put(cache, tokens, layout, space)
    assert cache.flush(60)
    disk.close(10)


# Finding


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [3, 4, 7, 8, 22])
def test_a_restarted_worker_hits_what_the_old_one_knew(layout: str, n: int, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT[:n], layout=layout)
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    assert cache.match_disk("m", [*TEXT[:n], 99]) == n
    fetched = cache.fetch_from_disk("m", [*TEXT[:n], 99, 98], template(layout))
    assert (fetched.length, fetched.reason) == (n, Reason.EXTENDED)
    check_content(fetched.caches or [], "m", TEXT[:n])
    assert cache.match_length("m", [*TEXT[:n], 99]) == 0
    disk.close(10)


def test_a_fetch_with_a_template_reads_through_and_keeps_it_in_memory(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT)
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    first = cache.fetch("m", [*TEXT, 99], template=template())
    assert first.length == 22 and disk.stats()["reads"] == 1
    # What fake caches do not tell is which tokens they are of, so the copy in memory is looked at by its length alone.
    assert cache.stats()["tokens_matched"] == 22
    disk.close(10)


def test_a_fetch_that_nobody_asked_for_is_in_no_figure_of_fetches_from_the_disk_either(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT)
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    assert cache.fetch("m", [*TEXT, 99], template=template(), counted=False).length == 22
    stats = cache.stats()
    assert (stats["fetches"], stats["hits"], stats["tokens_asked"], stats["tokens_matched"]) == (0, 0, 0, 0)
    disk.close(10)


@pytest.mark.parametrize(("agree", "found"), [(22, 22), (21, 20), (20, 20), (13, 12), (4, 4), (3, 0)])
def test_what_can_be_cut_serves_up_to_where_tokens_part_in_a_block(agree: int, found: int, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT)
    disk = tier(tmp_path / "kv")
    asked = [*TEXT[:agree], 50, 51, 52]
    assert disk.match("m", asked) == found
    assert agree <= disk.match_at_most("m", asked) <= len(asked) - 1
    fetched = disk.read("m", asked, template())
    assert fetched.length == agree
    check_content(fetched.caches or [], "m", TEXT[:agree])
    # More than is there is not read for.
    files = disk.stats()["bytes_read"]
    assert disk.read("m", asked, template(), least=agree + 1).caches is None
    assert disk.stats()["bytes_read"] == files
    disk.close(10)


def test_a_short_sequence_that_was_used_last_does_not_hide_the_longer_one_beside_it(tmp_path: Path) -> None:
    """Both begin where nothing is before them, and names do not tell which of them the prompt goes on like."""
    disk = tier(tmp_path / "kv", block_tokens=32, clock=(clock := Clock()))
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    clock.now += 1
    put(cache, [70, 71, 72])
    assert cache.flush(60)
    asked = [*TEXT[:20], 50]
    assert disk.match_at_most("m", asked) >= 20
    assert disk.read("m", asked, template(), least=20).length == 20
    disk.close(10)


@pytest.mark.parametrize("layout", ["hybrid", "window", "window-hybrid", "state"])
def test_what_cannot_be_cut_serves_its_stored_ends(layout: str, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT[:6], TEXT[:8], TEXT[:17], layout=layout)
    disk = tier(tmp_path / "kv")
    for agree, found in [(22, 17), (17, 17), (16, 8), (8, 8), (7, 6), (5, 0)]:
        asked = [*TEXT[:agree], 50]
        assert disk.match("m", asked) == found
        fetched = disk.read("m", asked, template(layout))
        assert fetched.length == found
        if found:
            check_content(fetched.caches or [], "m", TEXT[:found])
    disk.close(10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_token_is_always_left_to_run(layout: str, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT[:7], TEXT[:8], TEXT[:12], layout=layout)
    disk = tier(tmp_path / "kv")
    for n in range(14):
        fetched = disk.read("m", TEXT[:n], template(layout))
        surely, at_most = disk.match("m", TEXT[:n]), disk.match_at_most("m", TEXT[:n])
        assert surely <= fetched.length <= at_most <= max(0, n - 1)
        if fetched.caches is not None:
            check_content(fetched.caches, "m", TEXT[: fetched.length])
    disk.close(10)


def test_namespaces_never_meet(tmp_path: Path) -> None:
    names = ["a", "b", "", "a\0", "\N{SNOWMAN}", "../../b", "a" * 5000, "\ud800"]
    for name in names:
        stored(tmp_path / "kv", TEXT[:9], space=name)
    disk = tier(tmp_path / "kv")
    for name in names:
        check_content(disk.read(name, TEXT, template()).caches or [], name, TEXT[:9])
    assert disk.match("c", TEXT) == 0
    assert len(files(tmp_path / "kv")) == 3 * len(names)
    disk.close(10)


def test_nothing_of_namespace_and_tokens_is_in_a_name_and_another_directory_names_otherwise(tmp_path: Path) -> None:
    for place in ("one", "two"):
        stored(tmp_path / place, TEXT[:8], space="tenant")
    one, two = ({str(f.relative_to(tmp_path / place)) for f in files(tmp_path / place)} for place in ("one", "two"))
    assert len(one) == len(two) == 2 and not one & two
    for name in one | two:
        _, namespace, folder, file = name.split("/")
        assert parse(namespace, folder, file) is not None and "tenant" not in name


def test_keys_that_are_no_text_stay_in_memory_unless_somebody_names_them(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    put(cache, TEXT, space=("m", 1))  # type: ignore[arg-type]
    assert cache.flush(60) and disk.stats()["files"] == 0
    assert cache.match_disk(("m", 1), TEXT) == 0
    assert cache.fetch_from_disk(("m", 1), TEXT, template()).reason is Reason.EMPTY
    named = over(disk, disk_namespace=lambda key: f"{key[0]}")
    put(named, TEXT, space=("m", 2))  # type: ignore[arg-type]
    assert named.flush(60)
    # A later load of the same model finds it.
    assert named.match_disk(("m", 3), [*TEXT, 99]) == 22
    disk.close(10)


def test_a_read_that_is_given_up_ends_between_two_files(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT)
    system = FaultySystem()
    disk = tier(tmp_path / "kv", system=system)
    asked: list[int] = []
    fetched = disk.read("m", [*TEXT, 0], template(), cancelled=lambda: asked.append(0) or len(asked) > 2)
    assert fetched.reason is Reason.CANCELLED and fetched.caches is None
    assert system.counts["open_file"] == 1 + 2  # the secret, two files
    disk.close(10)


# What is written when


def test_what_a_fetch_has_hit_is_written_and_what_was_only_stored_is_not(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    put(cache, TEXT)
    assert disk.flush(60) and disk.stats()["files"] == 0
    assert cache.fetch("m", [*TEXT[:13], 99]).length == 13
    assert disk.flush(60)
    # Whole blocks: where a prompt left the text is no end that others come back to.
    assert [s.tokens for s in disk.entries()] == [4, 4, 4]
    before = disk.stats()["bytes_written"]
    cache.fetch("m", [*TEXT[:13], 98])
    assert disk.flush(60) and disk.stats()["bytes_written"] == before
    disk.close(10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_evicted_is_written_and_found_again(layout: str, tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    put(cache, TEXT, layout)
    cache.trim_to(n_bytes=0)
    assert cache.nbytes == 0
    assert disk.flush(60)
    assert cache.match_disk("m", [*TEXT, 99]) == 22
    check_content(cache.fetch_from_disk("m", [*TEXT, 99], template(layout)).caches or [], "m", TEXT)
    disk.close(10)


def test_a_turn_that_was_overtaken_leaves_no_part_of_a_block_behind(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    for n in (6, 11, 18):
        put(cache, TEXT[:n])
    cache.trim_to(n_bytes=0)
    assert disk.flush(60)
    assert sorted(s.tokens for s in disk.entries()) == [2, 4, 4, 4, 4]
    disk.close(10)


def test_an_inner_snapshot_that_is_evicted_is_written(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    put(cache, TEXT[:10], "hybrid")
    put(cache, TEXT, "hybrid")
    cache.trim_to(n_bytes=cache.nbytes - 1)
    assert cache.stats()["evicted_states"] == 1
    cache.trim_to(n_bytes=0)
    assert disk.flush(60)
    assert disk.match("m", [*TEXT[:10], 99]) == 10
    check_content(disk.read("m", [*TEXT[:10], 99], template("hybrid")).caches or [], "m", TEXT[:10])
    disk.close(10)


def test_what_a_pin_names_is_written_also_what_comes_later_and_is_never_evicted(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", max_bytes=5 * 5000)
    cache = over(disk)
    put(cache, TEXT[:6])
    cache.pin("p", "m", TEXT[:10])
    assert disk.flush(60) and disk.match("m", [*TEXT[:10], 99]) == 6
    put(cache, TEXT)
    assert disk.flush(60) and disk.match("m", [*TEXT[:10], 99]) == 10
    for first in range(100, 106):
        put(cache, [first, *TEXT])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
    assert disk.stats()["bytes"] <= 5 * 5000 and disk.stats()["evicted"] > 0
    assert disk.match("m", [*TEXT[:10], 99]) == 10
    cache.unpin("p")
    for first in range(200, 206):
        put(cache, [first, *TEXT])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
    assert disk.match("m", [*TEXT[:10], 99]) == 0
    disk.close(10)


def test_a_pin_made_before_the_disk_is_opened_protects_all_the_same(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", max_bytes=3 * 5000)
    disk.close(10)
    cache = over(disk)
    put(cache, TEXT[:8])
    cache.pin("p", "m", TEXT[:8])
    disk.open()
    assert cache.flush(60)
    for first in range(100, 106):
        put(cache, [first, *TEXT[:7]])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
    assert disk.match("m", [*TEXT[:8], 99]) == 8 and disk.stats()["evicted"] > 0
    disk.close(10)


def test_a_flush_writes_the_most_valuable_first_and_the_rest_does_not_push_it_out(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", max_bytes=3 * 5000)
    cache = over(disk)
    hot, cold = [*range(100, 108)], [*range(200, 208)]
    put(cache, hot)
    put(cache, cold)
    cache._locked.index.find("m", np.asarray(hot, np.int32), 7).hold.release()  # type: ignore[union-attr]
    order: list[int] = []
    original = disk.offer
    disk.offer = lambda namespace, offer, **o: (order.append(int(offer.tokens()[0])), original(namespace, offer, **o))  # type: ignore[method-assign]
    assert cache.flush(60)
    assert order == [100, 200]
    assert (disk.match("m", [*hot, 1]), disk.match("m", [*cold, 1])) == (8, 4)
    disk.close(10)


def test_the_queue_is_bounded_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    go = threading.Event()
    system = FaultySystem(lambda call, _: go.wait(60) if call == "create" and ready else None)
    ready = False
    disk = tier(tmp_path / "kv", system=system, queue_bytes=30)
    ready = True
    cache = over(disk)
    put(cache, list(range(100)))
    cache.trim_to(n_bytes=0)
    assert disk.stats()["waiting_bytes"] <= 30
    dropped = disk.stats()["dropped"]
    assert dropped >= 20
    go.set()
    assert disk.flush(60) and disk.stats()["files"] == 25 - dropped
    disk.close(10)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    for _ in range(3):
        put(cache, TEXT)
        cache.fetch("m", [*TEXT, 99])
        cache.trim_to(n_bytes=0)
        assert cache.flush(60)
    assert disk.stats()["writes"] == disk.stats()["files"] == 6
    disk.close(10)


# What goes


def test_the_budget_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    clock = Clock()
    disk = tier(tmp_path / "kv", max_bytes=10 * 5000, clock=clock)
    cache = over(disk)
    for first in range(0, 200, 10):
        clock.now += 40
        put(cache, [first, *TEXT[:7]])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
        assert disk.match("m", [0, *TEXT[:7], 9]) == 8
        clock.now += 40
        disk.read("m", [0, *TEXT[:7], 9], template())
        assert disk.stats()["bytes"] <= 10 * 5000
    assert disk.match("m", [190, *TEXT[:7], 9]) == 8
    assert disk.match("m", [10, *TEXT[:7], 9]) == 0
    disk.close(10)
    # The files say when they were used, so the next worker knows too.
    disk = tier(tmp_path / "kv", max_bytes=10 * 5000, clock=clock)
    cache = over(disk)
    for first in range(200, 240, 10):
        clock.now += 40
        put(cache, [first, *TEXT[:7]])
        cache.trim_to(n_bytes=0)
        assert disk.flush(60)
    assert disk.match("m", [0, *TEXT[:7], 9]) == 8
    disk.close(10)


def test_an_end_goes_before_what_it_hangs_on(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", max_bytes=4 * 5000)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    lengths = []
    for first in range(100, 104):
        lengths.append(disk.match("m", [*TEXT, 99]))
        put(cache, [first, *TEXT[:3]])
        cache.fetch("m", [first, *TEXT[:3], 99])
        assert disk.flush(60)
    assert lengths == sorted(lengths, reverse=True) and set(lengths) <= {16, 12, 8, 4, 0}
    disk.close(10)


def test_a_file_larger_than_the_budget_is_not_written(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", max_bytes=4000)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    assert (disk.stats()["files"], disk.stats()["dropped"]) == (0, 6)
    disk.close(10)


def test_the_days_bytes_are_counted_over_restarts_and_over_workers(tmp_path: Path) -> None:
    clock = Clock()

    def worker(first: int) -> tuple[int, int]:
        disk = tier(tmp_path / "kv", daily_bytes=8 * 4400, clock=clock)
        cache = over(disk)
        put(cache, [first, *TEXT[:15]])
        cache.flush(60)
        written = disk.stats()["writes"], disk.stats()["written_today"]
        disk.close(10)
        return written

    assert worker(100)[0] == 4
    writes, today = worker(200)
    assert 3 <= writes <= 4 and today <= 8 * 4400
    assert worker(300)[0] == 0
    clock.now += 86400
    assert worker(400)[0] == 4


def test_the_state_says_that_the_days_bytes_are_written(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv", daily_bytes=1)
    cache = over(disk)
    put(cache, TEXT)
    cache.flush(60)
    assert disk.stats()["state"] == "off: the bytes of the day are written"
    disk.close(10)
    assert disk.stats()["state"] == "off: closed"


def test_what_nobody_used_for_too_long_goes(tmp_path: Path) -> None:
    clock = Clock()
    disk = tier(tmp_path / "kv", clock=clock, max_age=100.0)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    clock.now += 99
    disk._opened.writer.housekeep()  # type: ignore[union-attr]
    assert disk.stats()["files"] == 6
    clock.now += 2
    disk._opened.writer.housekeep()  # type: ignore[union-attr]
    assert disk.stats()["files"] == 0 and files(tmp_path / "kv") == []
    disk.close(10)


def test_the_writer_keeps_its_pace_but_not_at_a_flush(tmp_path: Path) -> None:
    pauses: list[float] = []
    disk = tier(tmp_path / "kv", bytes_per_second=1e4)
    queue = disk._opened.queue  # type: ignore[union-attr]
    original = queue.pause
    queue.pause = lambda seconds: pauses.append(seconds) or original(min(seconds, 0.001))  # type: ignore[method-assign]
    cache = over(disk)
    put(cache, TEXT)
    cache.trim_to(n_bytes=0)
    assert disk.flush(60)
    assert len(pauses) == 6 and all(0 < pause <= 5000 / 1e4 for pause in pauses)
    with queue.unpaced():
        original(3600.0)
    disk.close(10)


# By name


def test_forgetting_takes_the_tail_that_nothing_else_shares(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT, [*TEXT[:9], 70, 71, 72, 73])
    disk = tier(tmp_path / "kv")
    disk.forget("m", TEXT)
    assert disk.match("m", [*TEXT, 99]) == 8
    assert disk.match("m", [*TEXT[:9], 70, 71, 72, 73, 74]) == 13
    disk.forget("m", [*TEXT[:9], 70, 71, 72, 73])
    assert disk.stats()["files"] == 0 and files(tmp_path / "kv") == []
    disk.forget("m", TEXT)
    disk.close(10)


@pytest.mark.parametrize("layout", ["hybrid", "window", "state"])
@pytest.mark.parametrize("shorter", [2, 6])
def test_forgetting_takes_the_states_on_the_way_too(layout: str, shorter: int, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT[:shorter], TEXT, layout=layout)
    disk = tier(tmp_path / "kv")
    disk.forget("m", TEXT, keep=shorter)
    assert disk.match("m", [*TEXT, 99]) == shorter
    disk.forget("m", TEXT)
    assert disk.stats()["files"] == 0 and files(tmp_path / "kv") == []
    disk.close(10)


@pytest.mark.parametrize("layout", ["hybrid", "window", "state"])
def test_forgetting_leaves_what_somebody_holds_on_the_way(layout: str, tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT[:6], TEXT, layout=layout)
    disk = tier(tmp_path / "kv")
    disk.protect("m", TEXT[:6])
    disk.forget("m", TEXT)
    assert disk.match("m", [*TEXT, 99]) == 6
    disk.close(10)


def test_clearing_takes_one_namespace_or_all_also_what_others_wrote(tmp_path: Path) -> None:
    stored(tmp_path / "kv", TEXT, space="a")
    disk = tier(tmp_path / "kv")
    stored(tmp_path / "kv", TEXT, space="b")
    stored(tmp_path / "kv", [5, 4, 3, 2, 1], space="a")
    disk.clear("a")
    assert disk.match("a", TEXT) == 0 and len(files(tmp_path / "kv")) == 6
    disk.clear()
    assert files(tmp_path / "kv") == [] and disk.stats()["files"] == disk.stats()["bytes"] == 0
    disk.close(10)


def test_clearing_a_group_takes_every_namespace_with_its_first_line(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    spaces = ("a\nt", "a\nu\ncodes", "a", "ab\nt", "b\na")
    for space in spaces:
        put(cache, TEXT, space=space)
    assert cache.flush(60)
    assert {disk.folder_of(space)[:8] for space in spaces[:3]} == {disk.folder_of("a")[:8]}
    assert len({disk.folder_of(space) for space in spaces}) == 5
    cache.clear_disk_group("a\nt")
    assert [disk.match(space, [*TEXT, 99]) > 0 for space in spaces] == [False, False, False, True, True]
    assert len(files(tmp_path / "kv")) == 12
    disk.close(10)


def test_the_memorys_clear_leaves_the_disk_alone(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    cache.drop("m")
    assert disk.flush(60) and cache.match_disk("m", [*TEXT, 99]) == 22
    disk.close(10)


def test_entries_say_what_there_is(tmp_path: Path) -> None:
    clock = Clock()
    disk = tier(tmp_path / "kv", clock=clock)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(60)
    disk.read("m", [*TEXT[:8], 99], template())
    clock.now += 60
    entries = list(disk.entries())
    assert sorted((e.tokens, e.hits) for e in entries) == [(2, 0), (4, 0), (4, 0), (4, 0), (4, 1), (4, 1)]
    assert {e.age for e in entries} == {60.0} and sum(e.nbytes for e in entries) == disk.stats()["bytes"]
    disk.close(10)


def test_a_namespace_can_be_removed_by_the_name_that_its_entries_have(tmp_path: Path) -> None:
    path = tmp_path / "kv"
    for space in ("m", "o"):
        stored(path, TEXT, space=space)
    disk = tier(path)
    assert {entry.namespace for entry in disk.entries()} == {disk.folder_of("m"), disk.folder_of("o")}
    disk.clear_folders(disk.folder_of("m"))
    assert {entry.namespace for entry in disk.entries()} == {disk.folder_of("o")}
    assert len(files(path)) == 6 and disk.match("m", TEXT) == 0 < disk.match("o", TEXT)
    disk.close(10)
    assert disk.folder_of("m") == ""


def test_a_tier_that_is_not_open_finds_and_takes_nothing(tmp_path: Path) -> None:
    disk = tier(tmp_path / "kv")
    disk.close(10)
    cache = over(disk)
    put(cache, TEXT)
    assert cache.flush(1)
    cache.trim_to(n_bytes=0)
    assert cache.match_disk("m", TEXT) == 0
    assert cache.fetch_from_disk("m", TEXT, template()).caches is None
    assert cache.fetch("m", TEXT, template=template()).caches is None
    assert (list(disk.entries()), list(disk.verify())) == ([], [])
    for call in (disk.forget, disk.protect, disk.unprotect):
        call("m", TEXT)
    disk.clear()
    disk.clear_folders("0" * 32)
    assert cache.stats()["disk"]["state"] == "off: closed"


# Several on one directory


def test_two_workers_find_each_others_files_and_their_removals(tmp_path: Path) -> None:
    clock = Clock()
    one = tier(tmp_path / "kv", clock=clock)
    two = tier(tmp_path / "kv", clock=clock)
    first, second = over(one), over(two)
    put(first, TEXT)
    assert first.flush(60)
    assert two.match("m", [*TEXT, 99]) == 0
    two._opened.writer.scan()  # type: ignore[union-attr]
    check_content(second.fetch_from_disk("m", [*TEXT, 99], template()).caches or [], "m", TEXT)
    one.clear()
    # Not known yet, and no harm: a miss.
    assert two.match("m", [*TEXT, 99]) == 22
    assert second.fetch_from_disk("m", [*TEXT, 99], template()).caches is None
    two._opened.writer.scan()  # type: ignore[union-attr]
    assert two.stats()["files"] == two.stats()["quarantined"] == 0
    put(second, TEXT)
    assert second.flush(60) and two.match("m", [*TEXT, 99]) == 22
    one.close(10)
    two.close(10)


def test_a_write_of_what_another_worker_has_written_meanwhile_is_no_fault(tmp_path: Path) -> None:
    one, two = tier(tmp_path / "kv"), tier(tmp_path / "kv")
    for disk in (one, two):
        cache = over(disk)
        put(cache, TEXT)
        assert cache.flush(60)
    assert len(files(tmp_path / "kv")) == 6 == two.stats()["writes"]
    assert list(one.verify()) == []
    one.close(10)
    two.close(10)
