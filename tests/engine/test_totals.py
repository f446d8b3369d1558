"""Totals over loads: what one load did stays counted when the next begins."""

from collections import Counter

from backend.engine.picture import Before, Counters, EnginePicture


def counters() -> Counters:
    counted = Counters(requests=3, cached_tokens=5, looked_up_tokens=9, disk_waits_ended=1, shared_waits=2)
    counted.cache_reasons["full"] += 2
    counted.finished["stop"] += 3
    counted.timings.request.observe(0.2)
    return counted


def test_loads_add_up_field_by_field_and_change_no_more() -> None:
    first = counters()
    before = (
        Before().and_also(first, {"inserts": 2.0}, tells=True).and_also(counters(), {"disk.reads": 1.0}, tells=True)
    )
    first.requests += 1
    first.timings.request.observe(0.2)
    totals = EnginePicture(at=0, counters=counters(), before=before).totals
    assert (totals.requests, totals.cached_tokens, totals.finished) == (9, 15, Counter(stop=9))
    assert totals.timings.request.count == 3 and totals.timings.first_token.count == 0
    assert before.cache == {"inserts": 2.0, "disk.reads": 1.0}


def test_of_a_load_that_tells_nothing_of_its_cache_nothing_of_it_stays() -> None:
    before = Before().and_also(counters(), {"inserts": 2.0}, tells=False)
    kept = before.counters
    assert (kept.requests, kept.finished) == (3, Counter(stop=3))
    assert not (kept.cached_tokens or kept.looked_up_tokens or kept.disk_waits_ended or kept.shared_waits)
    assert not kept.cache_reasons and not before.cache
