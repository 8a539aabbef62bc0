from datetime import timedelta
from typing import Any

import pytest

from meshca.errors import InvalidInput
from meshca.model import Selector
from spiffe.id import SpiffeID
from tests.support.values import OURS, entry


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spiffe_id": SpiffeID(OURS)}, r"spiffe://example\.org has no path.*X5-04"),
        ({"selectors": frozenset()}, "has no selectors: it would match everybody"),
        ({"ttl": timedelta(seconds=9)}, "ttl 9s is below the minimum of 10s"),
        ({"hint": "x" * 1025}, "hint has 1025 bytes, the limit is 1024"),
        ({"hint": "\u00e9" * 513}, "hint has 1026 bytes"),
        ({"federates_with": frozenset({OURS})}, "federates with its own trust domain"),
        ({"dns_names": ("web.example.org", "Web.example.org")}, r"'Web\.example\.org' is not lower-case"),
        ({"dns_names": ("",)}, "DNS name ''"),
        ({"dns_names": ("-web.example.org",)}, "'-web"),
        ({"dns_names": ("web.*.example.org",)}, r"'web\.\*"),
        ({"dns_names": (".".join(["a" * 63] * 4),)}, "has 255 characters, the limit is 253"),
        ({"dns_names": (f"{'a' * 64}.example",)}, "has a label of 64 characters, the limit is 63"),
        ({"dns_names": ("server.example.org.meshca.internal",)}, "is reserved"),
        ({"dns_names": ("router.example.org.meshca.localhost",)}, "is reserved"),
    ],
)
def test_an_entry_that_could_never_be_served_rightly_is_refused_by_value(changes: dict[str, Any], words: str):
    with pytest.raises(InvalidInput, match=words):
        entry("web", **changes)


def test_what_is_just_within_the_limits_of_an_entry_is_taken():
    names = ("*.example.org", ".".join(["a" * 63] * 3 + ["a" * 61]), "1.2")
    made = entry("web", ttl=timedelta(seconds=10), hint="x" * 1024, dns_names=names)
    assert (len(made.hint), made.dns_names) == (1024, names)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix",
        "unix:",
        ":value",
        "Unix:uid:0",
        "unix uid:0",
        "unix:uid\n:0",
        "unix:\x1b[31m",
        "1:2",
        "a" * 33 + ":x",
    ],
)
def test_what_is_no_selector_is_refused(text: str):
    with pytest.raises(InvalidInput, match="selector"):
        Selector.parse(text)


@pytest.mark.parametrize("text", ["unix:uid:0", "unix:path:/a b/c:d", "socket:web", "x-y_1:" + "v" * 4096])
def test_a_selector_is_written_as_it_was_read(text: str):
    assert str(Selector.parse(text)) == text
