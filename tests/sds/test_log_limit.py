import logging

import pytest

from sds.log_limit import LogLimit


def test_a_flood_of_one_kind_is_one_line_and_other_kinds_are_still_heard(caplog: pytest.LogCaptureFixture):
    limited = LogLimit(logging.getLogger("flood"), every=3600)
    for kind in (1, 1, 2, 1):
        limited.warning("refused", kind=kind, reason="because")
    limited.warning("lost", kind=1)
    assert [record.message for record in caplog.records] == ["refused", "refused", "lost"]
    assert caplog.records[0].reason == "because"


def test_the_next_line_says_how_many_were_left_out(caplog: pytest.LogCaptureFixture):
    limited = LogLimit(logging.getLogger("flood"), every=0)
    limited.warning("refused")
    limited._every = 3600
    limited.warning("refused")
    limited.warning("refused")
    limited._every = 0
    limited.warning("refused")
    assert [getattr(record, "suppressed", 0) for record in caplog.records] == [0, 2]


def test_a_flood_of_many_kinds_takes_no_memory():
    limited = LogLimit(logging.getLogger("flood"))
    logging.getLogger("flood").setLevel(logging.ERROR)
    for kind in range(5000):
        limited.warning("refused", kind=kind)
    assert len(limited._seen) <= 1000
