"""Rows carry values both ways: whatever is legal comes back equal."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.adapters.store_rows import (
    audit_of,
    audit_row,
    bundle_of,
    bundle_row,
    entry_of,
    entry_row,
    instant_row,
    journal_row,
    slot_row,
    slots_of,
)
from meshca.adapters.store_schema import AUDIT, BUNDLES, ENTRIES, JOURNAL, SLOTS
from meshca.model import (
    MIN_LEAF_TTL,
    Activation,
    AuditKind,
    AuditRecord,
    Entry,
    Kind,
    Leaving,
    Selector,
    Slot,
    Slots,
    State,
)
from spiffe.bundle import MAX_REFRESH_HINT, MAX_SEQUENCE, Bundle
from spiffe.id import SpiffeID, TrustDomain
from tests.support.pki import CA
from tests.support.values import T0, entry, link, slots

CERTIFICATES = tuple(
    CA.create(subject=str(n), key_type=kind).certificate for n, kind in enumerate(("p256", "p384", "rsa2048"))
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
instants = st.datetimes(
    timezones=st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001 - same
)
trust_domains = st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True).map(TrustDomain)
partners = st.from_regex(r"partner-[a-z0-9]{1,9}", fullmatch=True).map(TrustDomain)
spiffe_ids = st.builds(
    SpiffeID,
    trust_domains.filter(lambda td: not td.name.startswith("partner-")),
    st.from_regex(r"(/[a-zA-Z0-9_-]{1,9}){1,3}", fullmatch=True),
)
printable = st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" "), min_size=1, max_size=30
)
selectors = st.builds(Selector, st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True), printable)
certificates = st.sampled_from(CERTIFICATES)

entries = st.builds(
    Entry,
    id=texts,
    spiffe_id=spiffe_ids,
    selectors=st.frozensets(selectors, min_size=1, max_size=5),
    created_at=instants,
    ttl=st.none() | st.timedeltas(MIN_LEAF_TTL, timedelta(days=3_660_000)),
    dns_names=st.lists(st.sampled_from(["a.example.org", "*.b.example.org", "c"])).map(tuple),
    hint=texts,
    default=st.booleans(),
    federates_with=st.frozensets(partners, max_size=3),
    expires_at=st.none() | instants,
    source=texts,
)
bundles = st.builds(
    Bundle,
    trust_domain=trust_domains,
    x509_authorities=st.lists(certificates, unique=True).map(tuple),
    sequence=st.none() | st.integers(0, MAX_SEQUENCE),
    refresh_hint=st.none() | st.integers(0, int(MAX_REFRESH_HINT.total_seconds())).map(lambda s: timedelta(seconds=s)),
)
slot_values = st.builds(
    Slot,
    id=texts,
    kind=st.sampled_from(Kind),
    state=st.sampled_from(State),
    certificate=certificates,
    issuer_id=texts,
    prepared_at=instants,
    activated_at=st.none() | instants,
    retired_at=st.none() | instants,
    activation=st.sampled_from(Activation),
    leaving=st.sampled_from(Leaving),
)
links = st.builds(
    AuditRecord,
    writer=texts,
    sequence=st.integers(0, 2**63 - 1),
    at=instants,
    kind=st.sampled_from(AuditKind) | texts,
    body=texts,
    previous=texts,
    hash=texts,
    serial=texts,
    spiffe_id=texts,
    not_after=st.none() | instants,
)


@given(entries)
def test_an_entry_comes_back_equal(value: Entry):
    row = entry_row(value)

    assert entry_of(row) == value
    assert row.keys() == set(ENTRIES.c.keys())


@given(bundles)
def test_a_bundle_comes_back_equal(value: Bundle):
    row = bundle_row(value)

    assert bundle_of(row) == value
    assert row.keys() == set(BUNDLES.c.keys())


@given(st.lists(slot_values, max_size=4), trust_domains, st.integers(0, 2**62), st.integers(0, 2**62))
def test_slots_come_back_equal_but_for_the_next_revision(
    held: list[Slot], trust_domain: TrustDomain, sequence: int, revision: int
):
    value = Slots(trust_domain=trust_domain, slots=tuple(held), sequence=sequence, revision=revision)
    journal, rows = journal_row(value), [slot_row(*numbered) for numbered in enumerate(value.slots)]

    assert slots_of(journal, rows) == replace(value, revision=revision + 1)
    assert journal.keys() == set(JOURNAL.c.keys())
    assert all(row.keys() == set(SLOTS.c.keys()) for row in rows)


@given(links)
def test_an_audit_record_comes_back_equal(value: AuditRecord):
    row = audit_row(value)

    assert audit_of(row) == value
    assert {*row, "position"} == set(AUDIT.c.keys())


@given(entries, entries)
def test_only_same_spiffe_id_and_selectors_make_the_same_rule(one: Entry, other: Entry):
    same = (one.spiffe_id, one.selectors) == (other.spiffe_id, other.selectors)

    assert (entry_row(one)["rule"] == entry_row(other)["rule"]) == same
    assert entry_row(one)["rule"] == entry_row(replace(one, id="else", ttl=None, hint="else"))["rule"]


@given(instants, instants)
def test_instants_sort_as_their_integers(one: datetime, other: datetime):
    assert (one < other) == (instant_row(one) < instant_row(other))


def test_an_instant_is_microseconds_since_1970_and_one_without_zone_is_refused():
    assert instant_row(datetime(1970, 1, 2, 0, 0, 0, 7, tzinfo=UTC)) == 86_400_000_007
    with pytest.raises(TypeError):
        instant_row(datetime(2030, 1, 1))  # noqa: DTZ001 - the point


@pytest.mark.parametrize(
    "row",
    [entry_row(entry("web")), audit_row(link("a", 1)), journal_row(slots()), bundle_row(slots(CA.create()).bundle)],
)
def test_rows_hold_only_what_every_database_holds_exactly(row: dict[str, Any]):
    assert {type(value) for value in row.values()} <= {str, int, bool, bytes, type(None)}
    assert T0 not in row.values()
