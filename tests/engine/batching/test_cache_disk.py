"""What the engine thread asks of the disk: what part of the time reads may work, who had a conversation's last turn."""

import time
from pathlib import Path

from backend.config import CacheConfig
from backend.engine.batching.cache_disk import BESIDE_ROWS, UNHURRIED_SECONDS, CacheDisk
from backend.engine.conversation_files import KeptConversation
from backend.engine.loading.disk import OpenDisk, open_disk


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


def test_a_later_turn_that_another_process_had_is_known_by_the_file(tmp_path: Path) -> None:
    disk = open_disk(CacheConfig(directory=str(tmp_path / "kv")), "")
    assert isinstance(disk, OpenDisk)
    cache_disk = CacheDisk(disk, "model", lambda: None, lambda: time.time() - 1e6)
    key = cache_disk.conversation_key("t", "a")
    assert key not in ("a", cache_disk.conversation_key("u", "a"))
    now = time.time() - 1e6
    goes_on = cache_disk.goes_on_elsewhere(key, now)
    assert not goes_on()
    disk.conversations.write("model", KeptConversation("t", key, (), time.time()))
    assert not goes_on()
    disk.conversations.write("model", KeptConversation("t", key, (), time.time() + 60))
    assert goes_on() and not cache_disk.goes_on_elsewhere("", now)()
    # A clock that was put back makes nobody live longer.
    disk.conversations.read()
    assert [last <= now + 5 for _, last in cache_disk.known_conversations()] == [True]
    cache_disk.close(10)
