"""Entries and federated bundles: what the registry takes, and what it refuses with which words."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from meshca.adapters.store_memory import MemoryStore
from meshca.errors import AlreadyExists, InvalidInput, NotFound, Refused
from meshca.model import Entry, Selector
from meshca.server.registry import Registry
from spiffe.bundle import Bundle
from spiffe.id import SpiffeID, TrustDomain
from tests.support.clock import START
from tests.support.pki import CA

OURS = TrustDomain("mesh.local")
THEIRS = TrustDomain("partner.example")


def entry(path: str = "/web", selector: str = "unix:uid:1", **changes: Any) -> Entry:
    fields = {
        "id": f"{path}-{selector}",
        "spiffe_id": SpiffeID(OURS, path),
        "selectors": frozenset({Selector.parse(selector)}),
        "created_at": START,
    }
    return Entry(**(fields | changes))


def bundle() -> Bundle:
    return Bundle(trust_domain=THEIRS, x509_authorities=(CA.create(str(THEIRS)).certificate,))


@pytest.fixture
async def registry() -> Registry:
    store = MemoryStore()
    made = Registry(
        trust_domain=OURS,
        entry_store=store.entries,
        bundle_store=store.bundles,
        longest_ttl=timedelta(hours=6),
        on_change=lambda: None,
    )
    await made.load()
    return made


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"spiffe_id": SpiffeID(THEIRS, "/web")}, "not in our trust domain mesh.local"),
        ({"path": "/meshca/router/x"}, "reserved for meshca"),
        ({"path": "/meshca"}, "reserved for meshca"),
        ({"ttl": timedelta(hours=7)}, "7h is above the 6h"),
        ({"selectors": frozenset({Selector("unix", "uid:bob")})}, "'unix:uid:bob' is one that no process can have"),
        ({"selectors": frozenset({Selector("uid", "1")})}, "there are unix:uid:1000"),
        ({"federates_with": frozenset({THEIRS})}, "no bundle of partner.example is known"),
    ],
)
async def test_an_entry_that_makes_no_sense_here_is_refused_and_not_stored(
    registry: Registry, bad: dict[str, Any], words: str
):
    with pytest.raises(InvalidInput, match=words):
        await registry.create(entry(**bad))
    assert registry.entries == ()


async def test_the_one_reserved_identity_that_an_entry_may_give_is_the_routers(registry: Registry):
    made = await registry.create(entry(path="/meshca/router"))
    assert registry.entries == (made,)


async def test_an_identical_entry_is_refused_with_the_id_of_the_existing_one(registry: Registry):
    first = await registry.create(entry())
    with pytest.raises(AlreadyExists) as refusal:
        await registry.create(replace(first, id="another"))
    assert refusal.value.existing == first.id


async def test_our_own_bundle_is_neither_set_nor_deleted(registry: Registry):
    own = Bundle(trust_domain=OURS, x509_authorities=(CA.create(str(OURS)).certificate,))
    with pytest.raises(Refused, match="our own trust domain"):
        await registry.set_bundle(own)
    with pytest.raises(Refused, match="our own trust domain"):
        await registry.delete_bundle(OURS, dissociate=True)


async def test_a_bundle_without_authorities_is_refused(registry: Registry):
    with pytest.raises(InvalidInput, match=r"no X\.509 authorities"):
        await registry.set_bundle(Bundle(trust_domain=THEIRS, x509_authorities=()))


async def test_a_bundle_in_use_leaves_only_with_dissociate_which_takes_it_out_of_every_entry(registry: Registry):
    await registry.set_bundle(bundle())
    await registry.create(entry(federates_with=frozenset({THEIRS})))
    with pytest.raises(Refused, match=r"entries federate with partner\.example \(/web-unix:uid:1; 1 in all\)"):
        await registry.delete_bundle(THEIRS, dissociate=False)
    changed = await registry.delete_bundle(THEIRS, dissociate=True)
    assert [each.federates_with for each in changed] == [frozenset()]
    assert registry.entries == changed
    assert registry.bundles.get(THEIRS) is None
    with pytest.raises(NotFound):
        await registry.delete_bundle(THEIRS, dissociate=False)


async def test_entries_whose_time_is_over_are_removed(registry: Registry):
    await registry.create(entry("/a", expires_at=START + timedelta(hours=1)))
    await registry.create(entry("/b"))
    assert await registry.expire(START) == ()
    gone = await registry.expire(START + timedelta(hours=1))
    assert [each.spiffe_id.path for each in gone] == ["/a"]
    assert [each.spiffe_id.path for each in registry.entries] == ["/b"]


async def test_apply_changes_creates_and_prunes_only_within_its_own_source(registry: Registry):
    await registry.create(entry("/by-hand"))
    first = await registry.apply([entry("/a"), entry("/b")], "team", prune=False, dry_run=False)
    assert [each.spiffe_id.path for each in first.created] == ["/a", "/b"]

    second = await registry.apply([entry("/b", hint="new"), entry("/c")], "team", prune=True, dry_run=False)
    assert [each.spiffe_id.path for each in second.created] == ["/c"]
    assert [each.hint for each in second.updated] == ["new"]
    assert [each.spiffe_id.path for each in second.deleted] == ["/a"]
    assert {each.spiffe_id.path for each in registry.entries} == {"/by-hand", "/b", "/c"}

    again = await registry.apply([entry("/b", hint="new"), entry("/c")], "team", prune=True, dry_run=False)
    assert len(again.unchanged) == 2
    assert not (again.created)
    assert not (again.updated)
    assert not (again.deleted)


async def test_a_dry_run_tells_and_does_nothing(registry: Registry):
    told = await registry.apply([entry("/a")], "team", prune=True, dry_run=True)
    assert [each.spiffe_id.path for each in told.created] == ["/a"]
    assert registry.entries == ()


async def test_a_path_with_dots_in_its_names_is_one(registry: Registry):
    for path in ("/opt/.hidden/..web", "/a.b/c...", "/a b"):
        await registry.create(entry(selector=f"unix:path:{path}"))


async def test_apply_tells_all_bad_entries_at_once_each_by_its_number(registry: Registry):
    wanted = [entry("/meshca/x"), entry("/good"), entry("/web", dns_names=("10.0.0.1",))]
    with pytest.raises(InvalidInput) as refused:
        await registry.apply(wanted, "team", prune=False, dry_run=False)
    assert [line.split(": ")[0] for line in str(refused.value).splitlines()] == ["entry 1", "entry 3"]


async def test_apply_takes_all_or_nothing(registry: Registry):
    with pytest.raises(InvalidInput):
        await registry.apply([entry("/a"), entry("/meshca/x")], "team", prune=False, dry_run=False)
    assert registry.entries == ()


async def test_an_entry_deleted_now_is_remembered_as_cut_off(registry: Registry):
    made = await registry.create(entry())
    await registry.delete(made.id, now=True)
    assert registry.cut_off == {made.id}
    with pytest.raises(NotFound):
        await registry.delete(made.id, now=False)


async def test_an_entry_that_is_there_again_is_no_longer_cut_off(registry: Registry):
    made = await registry.create(entry())
    for again in (
        lambda: registry.create(made),
        lambda: registry.apply([made], made.source, prune=False, dry_run=False),
    ):
        await registry.delete(made.id, now=True)
        await again()
        assert registry.cut_off == frozenset()
    await registry.delete(made.id, now=False)
    assert registry.cut_off == frozenset()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": "x" * 257}, "id 'xxx.* is not at most 256 printable characters"),
        ({"id": "web\x1b[31m"}, r"id 'web\\x1b\[31m' is not"),
        ({"source": "x" * 257}, "source 'xxx"),
        (
            {"selectors": frozenset(Selector("unix", f"uid:{n}") for n in range(101))},
            "has 101 selectors, the limit is 100",
        ),
        ({"dns_names": tuple(f"a{n}.example" for n in range(101))}, "has 101 DNS names, the limit is 100"),
        ({"dns_names": ("a.example", "b.example", "a.example")}, r"'a\.example' is there twice"),
        ({"dns_names": ("10.0.0.1",)}, r"'10\.0\.0\.1' is an IP address"),
        ({"dns_names": ("*.internal",)}, "stands for a whole top-level domain"),
        ({"dns_names": ("meshca.internal",)}, "is reserved"),
        ({"dns_names": ("meshca.localhost",)}, "is reserved"),
        ({"hint": "two\nlines"}, r"hint 'two\\nlines' has characters that can not be printed"),
        ({"selector": "unix:path:bin/web"}, "unix:path:/ABSOLUTE/PATH"),
        ({"selector": "unix:path:/bin//web"}, "no //"),
        ({"selector": "unix:path:/bin/../web"}, "no //"),
        ({"selector": "unix:path:/bin/."}, "no //"),
        ({"selector": "unix:path:/bin/"}, "no //"),
    ],
)
async def test_an_entry_is_no_larger_than_a_leaf_a_list_and_a_log_can_bear(
    registry: Registry, changes: dict[str, Any], text: str
):
    with pytest.raises(InvalidInput, match=text):
        await registry.create(entry(**changes))
    assert registry.entries == ()
