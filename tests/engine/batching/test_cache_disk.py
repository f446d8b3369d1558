"""What part of the time a read may work: little while rows decode, all of it when none does or somebody waits long."""

from backend.engine.batching.cache_disk import BESIDE_ROWS, UNHURRIED_SECONDS, CacheDisk


def test_a_read_leaves_rows_that_decode_their_share_until_it_has_taken_long() -> None:
    now = [100.0]
    disk = CacheDisk("", "", lambda: None, lambda: now[0])
    share = disk.share()
    assert share() == 1.0
    disk.rows_decode = True
    assert share() == BESIDE_ROWS
    now[0] += UNHURRIED_SECONDS
    assert (share(), disk.share()()) == (1.0, BESIDE_ROWS)
    disk.rows_decode = False
    assert disk.share()() == 1.0
