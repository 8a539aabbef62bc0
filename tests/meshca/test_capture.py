"""The rules as text; that they do what they say is shown in tests/e2e/test_capture.py."""

from typing import Any

import pytest

from meshca.capture import Capture, ruleset
from meshca.errors import InvalidInput


def test_the_rules_in_full():
    made = Capture(
        envoy_uid=1337,
        apps={8080: 8443, 9090: None},
        exclude_uids=frozenset({998}),
        exclude_ports=frozenset({22}),
        exclude_cidrs=("10.0.0.0/8", "10.1.0.0/16", "fd00::/8"),
    )
    assert ruleset(made).splitlines() == [
        "table inet meshca",
        "delete table inet meshca",
        "table inet meshca {",
        "\tchain outbound {",
        "\t\ttype nat hook output priority -100; policy accept;",
        "\t\tmeta l4proto != tcp return",
        '\t\toifname "lo" return',
        "\t\tmeta skuid { 998, 1337 } return",
        "\t\ttcp dport { 22, 53, 15010 } return",
        "\t\tip daddr { 10.0.0.0/8, 169.254.0.0/16 } return",
        "\t\tip6 daddr { fd00::/8, fe80::/10 } return",
        "\t\tmeta l4proto tcp redirect to :15001",
        "\t}",
        "\tchain inbound {",
        "\t\ttype nat hook prerouting priority -100; policy accept;",
        '\t\tiifname "lo" return',
        "\t\tfib daddr type != local return",
        "\t\ttcp dport 8080 dnat to :8443",
        "\t\ttcp dport 9090 redirect to :15006",
        "\t}",
        "}",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"envoy_uid": 0}, "Envoy needs a user of its own"),
        ({"envoy_uid": 2**32 - 1}, "is no user id"),
        ({"exclude_uids": frozenset({-1})}, "-1 is no user id"),
        ({"outbound_port": 0}, "port 0 is not between"),
        ({"apps": {70000: None}}, "port 70000 is not between"),
        ({"apps": {8080: 70000}}, "port 70000 is not between"),
        ({"exclude_ports": frozenset({0})}, "port 0 is not between"),
        ({"apps": {15001: None}}, "port 15001 is Envoy's"),
        ({"apps": {8080: 8443, 8443: None}}, "port 8443 is Envoy's"),
        ({"exclude_cidrs": ("10.0.0.1/8",)}, "has host bits set: write a network"),
        ({"exclude_cidrs": ("example.org",)}, "write a network such as"),
    ],
)
def test_what_would_catch_nothing_or_envoy_itself_is_refused(changes: dict[str, Any], reason: str):
    with pytest.raises(InvalidInput, match=reason):
        Capture(**{"envoy_uid": 1337} | changes)
