"""Ready: the last self-test was good, and not long ago."""

import logging
from dataclasses import dataclass, field

import pytest

from meshca.errors import KeyGone
from meshca.server.readiness import GOOD_FOR, Readiness
from tests.support.clock import FakeClock


@dataclass
class Signer:
    """What is tested: `broken` says why it can not sign, `trouble` what else is known to fail."""

    broken: str = ""
    trouble: str = ""
    clock: FakeClock = field(default_factory=FakeClock)

    async def sign(self) -> None:
        if self.broken:
            raise KeyGone(self.broken)

    def readiness(self) -> Readiness:
        return Readiness(self_test=self.sign, trouble=lambda: self.trouble, clock=self.clock)


async def test_a_failed_test_counts_at_once_and_a_good_one_again():
    signer = Signer()
    readiness = signer.readiness()
    assert readiness.check() == (False, "cannot sign: no self-test has run yet")
    await readiness.test()
    assert readiness.check()[0]
    signer.broken = "no key"
    await readiness.test()
    assert readiness.check() == (False, "cannot sign: no key")
    signer.broken = ""
    await readiness.test()
    assert readiness.check()[0]


async def test_what_is_known_to_fail_needs_no_test_and_an_old_test_proves_nothing():
    signer = Signer()
    readiness = signer.readiness()
    await readiness.test()
    signer.trouble = "the disk is full"
    assert readiness.check() == (False, "cannot sign: the disk is full")
    signer.trouble = ""
    assert readiness.check()[0]
    signer.clock.advance(GOOD_FOR * 2)
    assert readiness.check() == (False, "has not signed for 120 s")


async def test_a_failure_that_lasts_is_logged_once(caplog: pytest.LogCaptureFixture):
    signer = Signer(broken="no key")
    readiness = signer.readiness()
    with caplog.at_level(logging.ERROR):
        await readiness.test()
        await readiness.test()
    assert len(caplog.records) == 1
