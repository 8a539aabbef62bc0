import asyncio
from datetime import timedelta
from typing import Any

import pytest

from meshca.errors import NotFound
from meshca.ports import BundleStore
from spiffe.bundle import MAX_SEQUENCE, Bundle
from spiffe.id import TrustDomain
from tests.contracts.conftest import StoreHome
from tests.support.pki import CA

A, B, C = TrustDomain("a.org"), TrustDomain("b.org"), TrustDomain("b-side.org")
ROOT, NEXT = CA.create("a.org", subject="1").certificate, CA.create("a.org", subject="2", key_type="p384").certificate


def bundle(trust_domain: TrustDomain, *roots: Any, **more: Any) -> Bundle:
    return Bundle(trust_domain=trust_domain, x509_authorities=roots, **more)


@pytest.mark.parametrize(
    "kept",
    [
        bundle(A, NEXT, ROOT),
        bundle(A, ROOT, sequence=MAX_SEQUENCE, refresh_hint=timedelta(days=366)),
        bundle(A, ROOT, sequence=0, refresh_hint=timedelta()),
        bundle(A),
    ],
    ids=["two roots in order", "largest", "zeros", "trusts nobody"],
)
async def test_a_bundle_comes_back_equal(bundles: BundleStore, kept: Bundle):
    await bundles.set(kept)

    assert await bundles.bundles() == (kept,)


async def test_bundles_are_ordered_by_trust_domain_and_setting_one_replaces_only_it(bundles: BundleStore):
    for kept in (bundle(B, ROOT), bundle(A, ROOT), bundle(C, ROOT), bundle(A, NEXT, sequence=2)):
        await bundles.set(kept)

    assert await bundles.bundles() == (bundle(A, NEXT, sequence=2), bundle(C, ROOT), bundle(B, ROOT))


async def test_a_deleted_bundle_is_gone_and_can_not_be_deleted_again(bundles: BundleStore):
    await bundles.set(bundle(A, ROOT))
    await bundles.set(bundle(B, ROOT))

    await bundles.delete(A)

    assert await bundles.bundles() == (bundle(B, ROOT),)
    with pytest.raises(NotFound, match=r"a\.org"):
        await bundles.delete(A)


async def test_many_may_set_at_once(bundles: BundleStore):
    written = [bundle(td, ROOT, sequence=n) for n in range(8) for td in (A, B)]

    await asyncio.gather(*map(bundles.set, written))

    first, second = await bundles.bundles()
    assert {first, second} <= set(written)


async def test_bundles_outlive_the_process_where_the_store_persists(store_home: StoreHome):
    async with store_home.open() as store:
        await store.bundles.set(bundle(A, ROOT))
    async with store_home.open() as store:
        assert await store.bundles.bundles() == ((bundle(A, ROOT),) if store_home.persists else ())
