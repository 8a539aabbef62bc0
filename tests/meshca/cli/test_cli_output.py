from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from meshca.cli.output import shown
from meshca.proto import admin_pb2 as pb
from spiffe.id import SpiffeID, TrustDomain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (Duration(), ""),
        (True, "yes"),
        (7, "7"),
        (Duration(seconds=5400), "1h30m"),
        (timedelta(seconds=90), "1m30s"),
        (datetime(2026, 11, 24, 2, tzinfo=UTC), "2026-11-24 02:00:00Z"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        (TrustDomain.parse("mesh.local"), "mesh.local"),
        (SpiffeID.parse("spiffe://mesh.local/web"), "spiffe://mesh.local/web"),
        (pb.Entry(selectors=["unix:uid:1", "unix:gid:1"]).selectors, "unix:uid:1\nunix:gid:1"),
        ([], ""),
    ],
)
def test_every_value_has_a_form_for_eyes(value: object, text: str):
    assert shown(value) == text
