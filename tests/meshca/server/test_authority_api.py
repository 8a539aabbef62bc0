"""Which authority an administrator means."""

from dataclasses import replace

import pytest

from meshca.errors import InvalidInput, NotFound
from meshca.model import Slots
from meshca.server.authority_api import find
from tests.support.pki import CA
from tests.support.values import OURS, slot

SLOT = slot(CA.create(str(OURS)).certificate)
ONE, TWO, OTHER = (replace(SLOT, id=each * 5) for each in ("aaaaaaa1", "aaaaaaa2", "bbbbbbbb"))
SLOTS = Slots(trust_domain=OURS, slots=(ONE, TWO, OTHER))


def test_an_id_may_be_given_by_the_digits_that_lists_and_logs_show():
    assert find(SLOTS, "aaaaaaa1") == find(SLOTS, ONE.id) == ONE
    assert find(SLOTS, "aaaaaaa2a") == TWO


@pytest.mark.parametrize("given", ["", "b", "bbbbbbb", "cccccccc", f"{OTHER.id}b"])
def test_fewer_digits_or_others_are_no_id(given: str):
    with pytest.raises(NotFound):
        find(SLOTS, given)


def test_digits_with_which_several_begin_are_refused_with_all_of_them():
    twin = replace(SLOT, id="bbbbbbbb" + "c" * 32)
    with pytest.raises(InvalidInput) as refused:
        find(replace(SLOTS, slots=(*SLOTS.slots, twin)), "bbbbbbbb")
    assert OTHER.id in str(refused.value)
    assert twin.id in str(refused.value)
