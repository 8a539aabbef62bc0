import os
import subprocess
import sys

import pytest

from meshca.capture import Capture, ruleset
from meshca.cli.exits import Exit
from tests.meshca.cli.conftest import Run

NOBODY = 65534


def test_the_rules_are_printed_and_nothing_is_done(run: Run):
    found = run("capture", "--envoy-uid", "nobody", "--app", "8443=8080", "--app", "9090", "--app", "7000=7000")
    expected = Capture(envoy_uid=NOBODY, apps={8080: 8443, 9090: None, 7000: None})
    assert (found.code, found.out, found.err) == (Exit.OK, ruleset(expected), "")


def test_all_that_is_excluded_is_in_the_rules(run: Run):
    options = ("--exclude-uid", "998", "--exclude-port", "22", "--exclude-cidr", "10.0.0.0/8", "--outbound-port", "1")
    expected = Capture(
        envoy_uid=1337,
        outbound_port=1,
        exclude_uids=frozenset({998}),
        exclude_ports=frozenset({22}),
        exclude_cidrs=("10.0.0.0/8",),
    )
    assert run("capture", "--envoy-uid", "1337", *options).out == ruleset(expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "--envoy-uid USER is needed"),
        (("--envoy-uid", "nobody-of-that-name"), "there is no user 'nobody-of-that-name' here"),
        (("--envoy-uid", "root"), "Envoy needs a user of its own"),
        (("--envoy-uid", "1337", "--app", "x"), "is not written APP_PORT or PORT=APP_PORT"),
        (("--envoy-uid", "1337", "--app", "=80"), "is not written APP_PORT or PORT=APP_PORT"),
        (
            ("--envoy-uid", "1337", "--app", "8443=80", "--app", "8444=80"),
            "--app 8444=80: calls to 80 are taken already",
        ),
        (
            ("--envoy-uid", "1337", "--inbound-port", "15001"),
            "port 15001 can not be Envoy's inbound and its outbound port",
        ),
        (("--envoy-uid", "1337", "--apply", "--remove"), "--apply and --remove contradict each other"),
    ],
)
def test_what_can_not_be_meant_is_refused(run: Run, options: tuple[str, ...], reason: str):
    found = run("capture", *options)
    assert found.code == Exit.USAGE
    assert reason in found.err


def test_without_nft_it_says_what_to_install():
    found = subprocess.run(
        [sys.executable, "-m", "meshca", "capture", "--envoy-uid", "1337", "--apply"],
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, "install the package nftables" in found.stderr) == (Exit.FAILED, True)
