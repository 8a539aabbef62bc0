"""What an operator may wish, decided on slots alone."""

from dataclasses import replace

from meshca.authority import wishes
from meshca.authority.slots import Prepare
from meshca.model import Kind, Slots, State
from tests.support.pki import CA
from tests.support.values import OURS, slot

PRESENT, NEXT = (CA.create(str(OURS), subject=name) for name in ("present", "next"))
ROOT = replace(slot(PRESENT.certificate), state=State.ACTIVE)
NEXT_ROOT = replace(slot(NEXT.certificate), state=State.PREPARED)
BELOW_NEXT = replace(
    slot(NEXT.intermediate().certificate), kind=Kind.INTERMEDIATE, state=State.PREPARED, issuer_id=NEXT_ROOT.id
)


def test_an_intermediate_that_waits_for_the_next_root_is_in_nobodys_way():
    present = Slots(trust_domain=OURS, slots=(ROOT, NEXT_ROOT, BELOW_NEXT))
    assert wishes.prepare(present, Kind.INTERMEDIATE) == Prepare(kind=Kind.INTERMEDIATE, root_id=ROOT.id)
