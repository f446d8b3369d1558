import logging

import pytest

from backend.engine.loading.progress import LOG_EVERY_S, ProgressLog, Rate


def test_every_report_reaches_the_observer_and_the_log_gets_one_line_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    seen: list[tuple[str, int, int]] = []
    reports = ProgressLog("download", "owner/name", lambda *report: seen.append(report), clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for step in range(1, 12):
            now[0] += LOG_EVERY_S / 4
            reports.report(step * 10, 1000)
        reports.finish()
    assert seen == [("download", step * 10, 1000) for step in range(1, 12)]
    assert caplog.messages == [
        "model_download model=owner/name bytes=40 total_bytes=1000 seconds=5.000 bytes_per_s=8.000 left_s=120.000",
        "model_download model=owner/name bytes=80 total_bytes=1000 seconds=10.000 bytes_per_s=8.000 left_s=115.000",
        "model_download_done model=owner/name bytes=110 total_bytes=1000 seconds=13.750",
    ]


def test_what_is_done_never_shrinks() -> None:
    seen: list[int] = []
    reports = ProgressLog("download", "m", lambda _stage, done, _total: seen.append(done))
    for done in (10, 30, 20, 40):
        reports.report(done, 100)
    assert seen == [10, 30, 30, 40]


def test_what_an_earlier_try_left_is_no_part_of_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    reports = ProgressLog("download", "m", None, every_s=1.0, clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for done in (800, 850):
            now[0] += 0.5
            reports.report(done, 1000)
    assert caplog.messages == [
        "model_download model=m bytes=850 total_bytes=1000 seconds=1.000 bytes_per_s=100.000 left_s=1.500"
    ]


def test_a_rate_is_that_of_late_and_unknown_before_there_are_two_reports() -> None:
    rate = Rate(0.0)
    assert rate.figures(100, "bytes") == {"bytes_per_s": None, "left_s": None}
    for second in range(1, 101):
        rate.saw(float(second), second if second <= 50 else 50 + 10 * (second - 50))
    assert rate.figures(1050, "bytes") == {"bytes_per_s": 10.0, "left_s": 50.0}
    assert rate.figures(0, "bytes")["left_s"] is None


def test_where_more_may_be_long_in_coming_the_first_report_of_a_size_is_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reports = ProgressLog("download", "m", None, at_once=True, clock=lambda: 0.0)
    with caplog.at_level(logging.INFO):
        for total in (0, 1000, 1000):
            reports.report(0, total)
    assert caplog.messages == ["model_download model=m bytes=0 total_bytes=1000 seconds=0.000"]
