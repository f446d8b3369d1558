import logging

import pytest

from backend.engine.loading.progress import LOG_EVERY_S, ProgressLog


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
        "model_download model=owner/name bytes=40 total_bytes=1000 seconds=5.000",
        "model_download model=owner/name bytes=80 total_bytes=1000 seconds=10.000",
        "model_download_done model=owner/name bytes=110 total_bytes=1000 seconds=13.750",
    ]


def test_what_is_done_never_shrinks() -> None:
    seen: list[int] = []
    reports = ProgressLog("download", "m", lambda _stage, done, _total: seen.append(done))
    for done in (10, 30, 20, 40):
        reports.report(done, 100)
    assert seen == [10, 30, 30, 40]
