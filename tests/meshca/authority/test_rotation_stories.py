"""Rotation told as stories: what happens, in order, and which authorities there are after each step."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise

import pytest

from meshca.adapters.store_memory import MemoryStore
from meshca.authority.issue import Order
from meshca.authority.slots import Prepare
from meshca.authority.wishes import get
from meshca.errors import CannotStart, NotFound, Refused
from meshca.model import Activation, AuditKind, AuditQuery, Issued, KeyType, Kind, Leaving, State
from spiffe.bundle import BundleSet
from spiffe.errors import VerificationFailed
from spiffe.id import TrustDomain
from spiffe.x509verify import verify
from tests.support.clock import START
from tests.support.kernel import CSR, DAY, HOUR, RULES, Kernel
from tests.support.values import entry

SECOND = timedelta(seconds=1)
SETTLE = RULES.settle

Do = Callable[[Kernel], Awaitable[object]]


def after(time: timedelta) -> Do:
    return lambda kernel: kernel.passes(time)


def leaf(holder: str = "p1", ttl: timedelta = HOUR) -> Do:
    return lambda kernel: kernel.leaf(holder=holder, ttl=ttl)


def takes(holder: str = "p1") -> Do:
    """The process proves that it holds the bundle, and the rotation ticks."""

    async def do(kernel: Kernel) -> None:
        kernel.takes(holder)
        await kernel.rotation.tick()

    return do


def renews(holder: str = "p1") -> Do:
    """The process gets a new leaf, and lets go of all before it."""

    async def do(kernel: Kernel) -> None:
        issued = await kernel.leaf(holder=holder)
        kernel.takes(holder, held=frozenset({issued.leaf.serial}))
        await kernel.rotation.tick()

    return do


def ends(holder: str = "p1") -> Do:
    async def do(kernel: Kernel) -> None:
        kernel.takes(holder, gone=True)
        await kernel.rotation.tick()

    return do


async def restart(kernel: Kernel) -> None:
    await kernel.restart()


def prepare(kind: Kind) -> Do:
    return lambda kernel: kernel.rotation.prepare(kind)


def rotate(kind: Kind) -> Do:
    return lambda kernel: kernel.rotation.rotate(kind)


def activate(kind: Kind, *, force: bool = False) -> Do:
    return lambda kernel: kernel.rotation.activate(kernel.prepared(kind).id, force=force)


def taint(kind: Kind) -> Do:
    return lambda kernel: kernel.rotation.taint(kernel.active(kind).id)


def revoke(kind: Kind, state: State = State.ACTIVE, *, force: bool = False) -> Do:
    return lambda kernel: kernel.rotation.revoke(kernel.slots.of(kind, state)[0].id, force=force)


def loses_key(kind: Kind) -> Do:
    async def do(kernel: Kernel) -> None:
        kernel.keys.delete(kernel.active(kind).id)
        await kernel.rotation.tick()

    return do


ROOT, INTERMEDIATE = Kind.ROOT, Kind.INTERMEDIATE
BEGIN = "active / active"


@dataclass(frozen=True, kw_only=True)
class Story:
    """`steps`: what is done, and the states of roots / intermediates after it ("" where they do not change)."""

    name: str
    steps: tuple[tuple[Do, str], ...]

    def __str__(self) -> str:
        return self.name


STORIES = [
    Story(
        name="an intermediate is prepared at half of its life, active at two thirds, and leaves with its last leaf",
        steps=(
            (after(12 * HOUR - 6 * SECOND), ""),
            (after(2 * SECOND), "active / active, prepared"),
            (leaf(ttl=DAY / 2), ""),
            (after(4 * HOUR - SECOND), ""),
            (after(2 * SECOND), "active / old, active"),
            (after(HOUR), ""),
            (renews(), ""),
            (after(SETTLE - SECOND), ""),
            (after(SECOND), "active / active"),
        ),
    ),
    Story(
        name="a root waits for every holder and for the handshakes in flight",
        steps=(
            (leaf("p1", 366 * DAY), ""),
            (takes("p1"), ""),
            (rotate(ROOT), "active, prepared / active"),
            (after(HOUR), ""),
            (takes("p1"), ""),
            (after(SETTLE - SECOND), ""),
            (after(SECOND), "old, active / old, active"),
        ),
    ),
    Story(
        name="with nobody to wait for, a wish is done at once but for the settling",
        steps=(
            (rotate(ROOT), "old, active / old, active"),
            (after(SETTLE - SECOND), ""),
            (after(SECOND), "active / active"),
        ),
    ),
    Story(
        name="an old root stays until the last leaf below it was replaced",
        steps=(
            (leaf("p1"), ""),
            (leaf("p2"), ""),
            (rotate(ROOT), "active, prepared / active"),
            (takes("p1"), ""),
            (takes("p2"), ""),
            (after(SETTLE), "old, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), ""),
            (renews("p2"), ""),
            (after(SETTLE - SECOND), ""),
            (after(SECOND), "active / active"),
        ),
    ),
    Story(
        name="who is gone or expired holds up nobody",
        steps=(
            (leaf("p1"), ""),
            (leaf("p2"), ""),
            (rotate(ROOT), "active, prepared / active"),
            (ends("p1"), ""),
            (after(HOUR), "old, active / old, active"),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="after a restart nobody is known to hold anything until it says so",
        steps=(
            (leaf("p1"), ""),
            (rotate(ROOT), "active, prepared / active"),
            (takes("p1"), ""),
            (restart, ""),
            (after(SETTLE), ""),
            (takes("p1"), ""),
            (restart, ""),
            (after(SETTLE), ""),
            (takes("p1"), ""),
            (after(SETTLE), "old, active / old, active"),
            (restart, ""),
            (after(SETTLE), ""),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="a minted leaf has no process to ask and is waited for until it expires",
        steps=(
            (leaf("mint/0", HOUR), ""),
            (rotate(ROOT), "active, prepared / active"),
            (after(HOUR - SECOND), ""),
            (after(SECOND), "old, active / old, active"),
        ),
    ),
    Story(
        name="force does not wait, and then all goes on as ever",
        steps=(
            (leaf("p1"), ""),
            (prepare(ROOT), "active, prepared / active"),
            (activate(ROOT, force=True), "old, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="what an operator prepares waits for him, and then for the holders",
        steps=(
            (leaf("p1"), ""),
            (prepare(ROOT), "active, prepared / active"),
            (takes("p1"), ""),
            (after(20 * SECOND), ""),
            (activate(ROOT), "old, active / old, active"),
        ),
    ),
    Story(
        name="an intermediate needs no holder's word: chains carry it",
        steps=(
            (leaf("p1"), ""),
            (prepare(INTERMEDIATE), "active / active, prepared"),
            (after(HOUR / 2), ""),
            (activate(INTERMEDIATE), "active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="an intermediate is activated by force just as well",
        steps=(
            (prepare(INTERMEDIATE), "active / active, prepared"),
            (activate(INTERMEDIATE, force=True), "active / old, active"),
        ),
    ),
    Story(
        name="a tainted root is replaced first and dropped after",
        steps=(
            (leaf("p1"), ""),
            (taint(ROOT), "active, prepared / active"),
            (takes("p1"), ""),
            (after(SETTLE), "tainted, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="a tainted intermediate is replaced at once and dropped after",
        steps=(
            (leaf("p1"), ""),
            (taint(INTERMEDIATE), "active / tainted, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="a revoked intermediate takes its root with it, since verifiers know only roots",
        steps=(
            (leaf("p1"), ""),
            (revoke(INTERMEDIATE), "active / tainted, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active, prepared / active"),
            (takes("p1"), ""),
            (after(SETTLE), "tainted, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="a revoked intermediate that signs no more takes its root with it just as well",
        steps=(
            (leaf("p1"), ""),
            (rotate(INTERMEDIATE), "active / old, active"),
            (revoke(INTERMEDIATE, State.OLD), "active / tainted, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active, prepared / active"),
            (takes("p1"), ""),
            (after(SETTLE), "tainted, active / old, active"),
        ),
    ),
    Story(
        name="an intermediate that was only prepared and is revoked takes its root with it: its key has been there to be stolen",
        steps=(
            (leaf("p1"), ""),
            (prepare(INTERMEDIATE), "active / active, prepared"),
            (revoke(INTERMEDIATE, State.PREPARED), "active, prepared / active"),
            (takes("p1"), ""),
            (after(SETTLE), "tainted, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    *(
        Story(
            name=f"by force the root of a revoked {state} intermediate does not wait for the leaves below it",
            steps=(
                (leaf("p1"), ""),
                *before,
                (revoke(INTERMEDIATE, state, force=True), "active, prepared / tainted, active"),
                (takes("p1"), ""),
                (after(SETTLE), "tainted, active / tainted, old, active"),
                (renews("p1"), ""),
                (after(SETTLE), "active / active"),
            ),
        )
        for state, before in ((State.ACTIVE, ()), (State.OLD, ((rotate(INTERMEDIATE), "active / old, active"),)))
    ),
    Story(
        name="a root can be revoked once there is another",
        steps=(
            (leaf("p1"), ""),
            (prepare(ROOT), "active, prepared / active"),
            (revoke(ROOT), ""),
            (takes("p1"), ""),
            (after(SETTLE), "tainted, active / old, active"),
        ),
    ),
    Story(
        name="an old root goes at once by force, with all that is below it",
        steps=(
            (leaf("p1"), ""),
            (prepare(ROOT), "active, prepared / active"),
            (activate(ROOT, force=True), "old, active / old, active"),
            (revoke(ROOT, State.OLD, force=True), "active / old, active"),
        ),
    ),
    Story(
        name="an old authority that is tainted is tainted at once",
        steps=(
            (leaf("p1"), ""),
            (rotate(INTERMEDIATE), "active / old, active"),
            (
                lambda kernel: kernel.rotation.taint(kernel.slots.of(INTERMEDIATE, State.OLD)[0].id),
                "active / tainted, active",
            ),
        ),
    ),
    Story(
        name="what is only prepared goes at once when it is revoked",
        steps=(
            (prepare(ROOT), "active, prepared / active"),
            (revoke(ROOT, State.PREPARED), "active / active"),
        ),
    ),
    Story(
        name="an intermediate without its key is replaced at once",
        steps=((leaf("p1"), ""), (loses_key(INTERMEDIATE), "active / active")),
    ),
    Story(
        name="a root without its key stays published while others hang on it, and another takes its place",
        steps=(
            (leaf("p1"), ""),
            (loses_key(ROOT), "old, prepared / active"),
            (after(HOUR / 2), ""),
            (restart, ""),
            (takes("p1"), ""),
            (after(SETTLE), "old, active / old, active"),
            (renews("p1"), ""),
            (after(SETTLE), "active / active"),
        ),
    ),
    Story(
        name="a root without its key that can not be replaced yet stays as long as its intermediate signs",
        steps=(
            (leaf("p1"), ""),
            (prepare(ROOT), "active, prepared / active"),
            (activate(ROOT, force=True), "old, active / old, active"),
            (leaf("p2"), ""),
            (prepare(ROOT), "old, active, prepared / old, active"),
            (activate(ROOT, force=True), "old, old, active / old, old, active"),
            (loses_key(ROOT), "old, old, old / old, old, active"),
            (after(SETTLE), ""),
            (ends("p1"), ""),
            (after(SETTLE), "old, old, prepared / old, active"),
            (takes("p2"), ""),
            (after(SETTLE), "old, old, active / old, old, active"),
            (after(SETTLE), "old, active / old, active"),
        ),
    ),
    Story(
        name="after a year down everything has expired, and the CA begins anew",
        steps=((leaf("p1"), ""), (after(366 * DAY), "active / active")),
    ),
    Story(
        name="a clock that is set back an hour changes nothing but the authority that it dates in the future",
        steps=(
            (after(2 * HOUR), ""),
            (leaf("p1"), ""),
            (rotate(ROOT), "active, prepared / active"),
            (takes("p1"), ""),
            (after(-HOUR), ""),
            (takes("p1"), ""),
            (after(SETTLE - SECOND), ""),
            (after(SECOND), "old, active / old, active"),
        ),
    ),
]


@pytest.mark.parametrize("story", STORIES, ids=str)
async def test_story(story: Story):
    kernel = await Kernel.started()
    told = BEGIN
    assert kernel.states() == told
    for number, (do, states) in enumerate(story.steps):
        await do(kernel)
        told = states or told
        assert kernel.states() == told, f"step {number}"
        kernel.sound()
    await kernel.recorder.verify_all()


REFUSED: list[tuple[str, tuple[Do, ...], Do, str]] = [
    (
        "prepare while one is prepared",
        (prepare(ROOT),),
        prepare(ROOT),
        "root .* is prepared already: `meshca authority",
    ),
    (
        "prepare an intermediate while one is prepared",
        (prepare(INTERMEDIATE),),
        prepare(INTERMEDIATE),
        "intermediate .* is prepared already",
    ),
    (
        "prepare a fourth root",
        (leaf("p1"), prepare(ROOT), activate(ROOT, force=True), leaf("p2"), prepare(ROOT), activate(ROOT, force=True)),
        prepare(ROOT),
        "3 roots are published, the most there may be",
    ),
    (
        "taint a root that there is no room to replace",
        (leaf("p1"), prepare(ROOT), activate(ROOT, force=True), leaf("p2"), prepare(ROOT), activate(ROOT, force=True)),
        taint(ROOT),
        "3 roots are published, the most there may be",
    ),
    ("prepare without a root", (leaf("p1"), loses_key(ROOT)), prepare(INTERMEDIATE), "no root is active"),
    ("revoke the last usable root", (), revoke(ROOT), "root .* is the last usable one: .* first, or taint it"),
    (
        "taint what is only prepared",
        (prepare(ROOT),),
        lambda kernel: kernel.rotation.taint(kernel.prepared(ROOT).id),
        "root .* is only prepared: nothing hangs on it",
    ),
    (
        "activate what is active",
        (),
        lambda kernel: kernel.rotation.activate(kernel.root.id, force=True),
        "root .* is active, only a prepared authority can be activated",
    ),
]


@pytest.mark.parametrize(("before", "wish", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_would_end_badly_is_refused_and_changes_nothing(before: tuple[Do, ...], wish: Do, text: str):
    kernel = await Kernel.started()
    for do in before:
        await do(kernel)
    slots, keys = kernel.slots, kernel.keys.key_ids()
    with pytest.raises(Refused, match=text):
        await wish(kernel)
    assert (kernel.slots, kernel.keys.key_ids()) == (slots, keys)


async def test_an_intermediate_below_a_prepared_root_is_not_activated_without_it():
    kernel = await Kernel.started()
    root = await kernel.rotation.prepare(ROOT)
    below = await kernel.rotation._prepare(Prepare(kind=INTERMEDIATE, root_id=root.id), Activation.BY_TIME)
    with pytest.raises(Refused, match=f"becomes active with its root: `meshca authority activate {root.id}`"):
        await kernel.rotation.activate(below.id, force=True)
    remarks = await kernel.rotation.activate(root.id, force=False)
    assert remarks == ("it signs from now on",)
    assert (kernel.root.id, kernel.intermediate.id) == (root.id, below.id)


@pytest.mark.parametrize(
    "wish",
    [
        lambda kernel: kernel.rotation.activate("ab" * 20, force=False),
        lambda kernel: kernel.rotation.taint("ab" * 20),
        lambda kernel: kernel.rotation.revoke("ab" * 20, force=True),
    ],
    ids=["activate", "taint", "revoke"],
)
async def test_an_authority_that_is_not_there_is_named(wish: Do):
    kernel = await Kernel.started()
    with pytest.raises(NotFound, match=f"there is no authority '{'ab' * 20}'; `meshca authority list`"):
        await wish(kernel)


async def test_each_wish_says_what_happens_next():
    kernel = await Kernel.started()
    await kernel.leaf("web", holder="p1")
    root = await kernel.rotation.prepare(ROOT)
    assert root.activation is Activation.BY_HAND
    assert await kernel.rotation.activate(root.id, force=False) == (
        "it signs as soon as 1 more holder has the new bundle",
    )
    kernel.takes("p1")
    assert await kernel.rotation.activate(root.id, force=False) == ("it signs as soon as that has settled",)
    await kernel.leaf("web", holder="p2")
    kernel.takes("p1", bundle="")
    assert await kernel.rotation.activate(root.id, force=True) == ("it signs from now on; 1 holder may not know it",)
    old = kernel.slots.of(ROOT, State.OLD)[0]
    assert await kernel.rotation.revoke(old.id, force=False) == (
        "2 leaves below it are replaced first, then it is dropped",
    )
    assert await kernel.rotation.revoke(old.id, force=True) == ("it is gone",)
    assert await kernel.rotation.taint(kernel.intermediate.id) == ("it is dropped as soon as that has settled",)
    remarks = await kernel.rotation.revoke(kernel.intermediate.id, force=False)
    assert remarks[1].startswith("then the root above it is rotated too: verifiers know only roots")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("state", [State.PREPARED, State.ACTIVE, State.OLD])
async def test_what_a_revoked_intermediate_can_sign_is_refused_in_the_end(state: State, force: bool):
    kernel = await Kernel.started()
    await kernel.leaf()
    await (prepare if state is State.PREPARED else rotate)(INTERMEDIATE)(kernel)
    stolen = kernel.slots.of(INTERMEDIATE, state)[0]
    (forged,) = await kernel.issuer.issue([Order(entry=entry("admin"), csr=CSR, holder="thief")], stolen)
    assert isinstance(forged, Issued)
    remarks = await kernel.rotation.revoke(stolen.id, force=force)
    when = "at the same time" if force else "then"
    assert remarks[-1].startswith(f"{when} the root above it is rotated too: verifiers know only roots")
    verify(forged.chain, BundleSet([kernel.slots.bundle]), START)
    for _ in range(2):
        await renews()(kernel)
        await kernel.passes(SETTLE)
    await renews()(kernel)
    await kernel.passes(SETTLE)
    assert kernel.states() == BEGIN
    with pytest.raises(VerificationFailed, match="X5-30"):
        verify(forged.chain, BundleSet([kernel.slots.bundle]), kernel.clock.now())


async def test_distrust_is_never_taken_back():
    kernel = await Kernel.started()
    await kernel.leaf()
    tainted = kernel.root.id
    await kernel.rotation.revoke(kernel.intermediate.id, force=False)
    await kernel.rotation.taint(tainted)
    await kernel.rotation.rotate(ROOT)
    assert get(kernel.slots, tainted).leaving is Leaving.TAINTED
    assert {slot.leaving for slot in kernel.slots.of(INTERMEDIATE, State.TAINTED)} == {Leaving.REVOKED}


async def test_the_sequence_rises_with_each_change_of_the_bundle_and_only_then():
    kernel = await Kernel.started()
    for kind in (INTERMEDIATE, ROOT, ROOT):
        await kernel.leaf()
        await kernel.rotation.rotate(kind)
        kernel.takes()
        await kernel.passes(HOUR)
        await kernel.passes(HOUR)
    published = [(slots.sequence, slots.bundle.digest) for slots in kernel.changes]
    for (before, was), (after_, now) in pairwise(published):
        assert after_ == before + (was != now)
    assert published[-1][0] == 5
    assert [slots.revision for slots in kernel.changes] == list(range(1, len(published) + 1))


async def test_a_wish_and_every_step_are_recorded():
    kernel = await Kernel.started()
    root = await kernel.rotation.prepare(ROOT)
    await kernel.rotation.activate(root.id, force=True)
    await kernel.passes(SETTLE)
    found = await kernel.audit.find(AuditQuery(kind=AuditKind.AUTHORITY, limit=1000))
    told = [
        record.body for record in reversed(found) if root.id in record.body or kernel.intermediate.id in record.body
    ]
    assert [body.split('"becomes":"')[1].split('"')[0] for body in told] == ["prepared", "prepared", "active"]
    assert any('"becomes":"dropped","reason":"no live leaf is below it"' in record.body for record in found)


async def test_a_long_entry_does_not_have_authorities_replaced_without_end():
    kernel = await Kernel.started(rules=replace(RULES, longest_ttl=30 * DAY))
    first = kernel.intermediate.id
    await kernel.passes(DAY / 2 - HOUR)
    assert kernel.intermediate.id == first
    await kernel.passes(2 * HOUR)
    assert kernel.intermediate.id != first


async def test_an_authority_is_replaced_two_leaf_lifetimes_before_its_end_at_the_latest():
    kernel = await Kernel.started(rules=replace(RULES, longest_ttl=DAY / 5))
    first = kernel.intermediate.id
    await kernel.passes(DAY / 2)
    assert kernel.prepared(INTERMEDIATE)
    await kernel.passes(DAY / 10 - 15 * SECOND)
    assert kernel.intermediate.id == first
    await kernel.passes(20 * SECOND)
    assert kernel.intermediate.id != first


async def test_no_intermediate_is_made_that_would_end_with_the_one_there_is():
    kernel = await Kernel.started(rules=replace(RULES, root_lifetime=DAY))
    await kernel.leaf("web", ttl=DAY)
    await kernel.passes(DAY * 0.6)
    assert kernel.states() == "active, prepared / active"


@pytest.mark.parametrize("root_type", KeyType)
@pytest.mark.parametrize("intermediate_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
async def test_chains_of_all_key_types_hold(root_type: KeyType, intermediate_type: KeyType):
    kernel = await Kernel.started(key_types={ROOT: root_type, INTERMEDIATE: intermediate_type})
    issued = await kernel.leaf()
    assert verify(issued.chain, BundleSet([kernel.slots.bundle]), START) == issued.leaf.spiffe_id
    assert issued.chain[1] == kernel.intermediate.certificate


async def test_a_leaf_holds_for_whoever_has_its_root_and_for_nobody_else():
    kernel = await Kernel.started()
    before = kernel.slots.bundle
    await kernel.rotation.rotate(ROOT)
    issued = await kernel.leaf()
    assert verify(issued.chain, BundleSet([kernel.slots.bundle]), START) == issued.leaf.spiffe_id
    with pytest.raises(VerificationFailed, match="X5-30"):
        verify(issued.chain, BundleSet([before]), START)


async def test_alarms_say_what_a_person_must_look_at():
    kernel = await Kernel.started()
    await kernel.leaf("web", holder="p1", ttl=2 * DAY)
    await kernel.leaf("web", holder="p2", ttl=2 * DAY)
    await kernel.rotation.rotate(ROOT)
    assert kernel.rotation.alarms(START + 14 * HOUR / 60) == ()
    (late,) = kernel.rotation.alarms(START + HOUR / 4)
    assert late == "2 holders have not taken the new bundle since 2030-01-01T00:00:00Z: first of them p1"
    kernel.takes("p2")
    (late,) = kernel.rotation.alarms(START + HOUR / 4)
    assert late == "1 holder has not taken the new bundle since 2030-01-01T00:00:00Z: p1"
    root, intermediate = kernel.root.id, kernel.intermediate.id
    alarms = kernel.rotation.alarms(START + DAY - HOUR / 2)
    assert alarms[1:] == (
        f"intermediate {intermediate} ends at 2030-01-02T00:00:00Z and still signs: leaves get shorter",
    )
    kernel.keys.delete(root)
    await kernel.rotation.tick()
    assert "there is no active root: nothing new can be signed" in kernel.rotation.alarms(START)


async def test_the_self_test_proves_that_the_active_intermediate_signs_and_leaves_no_trace():
    kernel = await Kernel.started()
    head = kernel.recorder.head
    kernel.rotation.self_test()
    assert kernel.recorder.head == head
    empty = Kernel()
    empty.wire()
    with pytest.raises(Refused, match="no intermediate is active"):
        empty.rotation.self_test()


async def test_keys_that_no_authority_has_are_set_aside_at_start(caplog: pytest.LogCaptureFixture):
    kernel = await Kernel.started()
    stray, _ = kernel.keys.generate(KeyType.EC_P256)
    await kernel.restart()
    assert stray not in kernel.keys.key_ids()
    assert [(each.getMessage(), each.key_id) for each in caplog.records if hasattr(each, "key_id")] == [
        ("key of no authority set aside", stray)
    ]
    kernel.sound()


async def test_a_store_of_another_trust_domain_is_refused():
    kernel = await Kernel.started()
    kernel.wire()
    kernel.rotation.slots = replace(kernel.slots, trust_domain=TrustDomain("example.com"))
    with pytest.raises(CannotStart, match="a trust domain is never renamed"):
        await kernel.rotation.start()


async def test_a_new_store_beside_old_keys_is_refused_and_the_keys_are_kept():
    kernel = await Kernel.started()
    keys = kernel.keys.key_ids()
    with pytest.raises(CannotStart, match="there are keys of authorities, but the store is new"):
        await Kernel.started(keys=kernel.keys, journal=MemoryStore().journal)
    assert kernel.keys.key_ids() == keys


async def test_a_leaf_from_before_a_restart_that_its_process_never_takes_up_again_keeps_its_root_until_it_ends():
    kernel = await Kernel.started()
    await kernel.leaf("web")
    never_fetched = await kernel.leaf("db")
    await kernel.restart()
    web, db = await kernel.leaf("web"), await kernel.leaf("db")
    kernel.takes(held=frozenset({web.leaf.serial}))
    assert kernel.ledger.live_under(kernel.root.id, kernel.clock.now()) == 3, "of web only the newest, of db both"

    await kernel.rotation.rotate(ROOT)
    kernel.takes(held=frozenset({web.leaf.serial}))
    await kernel.passes(SETTLE)
    assert kernel.states() == "old, active / old, active"
    newest = await kernel.leaf("web")
    await kernel.leaf("db")
    kernel.takes(held=frozenset({newest.leaf.serial}), replaced=frozenset({web.leaf.serial, db.leaf.serial}))
    await kernel.passes(SETTLE)
    (old,) = kernel.slots.of(ROOT, State.OLD)
    assert [leaf.serial for leaf in kernel.ledger.leaves_under(old.id)] == [never_fetched.leaf.serial]
    await kernel.passes(HOUR)
    await kernel.passes(SETTLE)
    assert kernel.states() == "active / active"
