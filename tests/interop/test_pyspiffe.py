"""py-spiffe's own calls against our server, and from raw messages what py-spiffe does not check."""

import base64
from itertools import pairwise
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshca.client import CallFailed
from meshca.clock import SystemClock
from meshca.proto import admin_pb2 as pb
from sds.proto import workload_pb2
from spiffe import Bundle, BundleSet, SpiffeID, VerificationFailed, verify
from spiffe.x509svid import parse_der_chain
from tests.interop.conftest import Start
from tests.interop.peers import HEADER, TRUST_DOMAIN, Domain, Refused, spiffe_id
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = [
    *("FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"),
    *("FetchWITSVID", "FetchWITBundles", "NoSuchMethod"),
]
WITHOUT_HEADER = [
    pytest.param((), id="no header"),
    pytest.param((("workload.spiffe.io", "True"),), id="True"),
    pytest.param((("workload.spiffe.io", " true"),), id="a space before true"),
    pytest.param((("workload.spiffe.io", ""),), id="empty"),
    pytest.param((HEADER, HEADER), id="twice"),
    pytest.param((("broker.spiffe.io", "true"),), id="another header"),
]
CRITICAL = {
    x509.BasicConstraints: True,
    x509.KeyUsage: True,
    x509.ExtendedKeyUsage: False,
    x509.SubjectAlternativeName: True,  # the Subject is empty
    x509.SubjectKeyIdentifier: False,
    x509.AuthorityKeyIdentifier: False,
}


async def test_all_its_fetch_calls_agree(domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web"))

    one = await peer.do("ask", call="fetch_x509_svid")
    many = await peer.do("ask", call="fetch_x509_svids")
    bundles = await peer.do("ask", call="fetch_x509_bundles")
    context = await peer.do("fetch")

    assert many == context["svids"] == [one]
    assert bundles == context["bundles"]
    assert list(bundles) == [TRUST_DOMAIN.name]


async def test_its_contract_is_part_of_ours_and_ours_adds_nothing_but_wit(domain: Domain, start: Start):
    theirs = await (await start("pyspiffe", next(domain.free))).do("contract")
    service = workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    methods = {each.name: [each.input_type.name, each.output_type.name] for each in service.methods}
    messages = {
        name: {field.name: [field.number, field.type] for field in each.fields}
        for name, each in workload_pb2.DESCRIPTOR.message_types_by_name.items()
    }

    assert theirs == {"methods": without_wit(methods), "messages": without_wit(messages)}
    assert not workload_pb2.DESCRIPTOR.package


def without_wit(names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if "WIT" not in name}


async def test_a_raw_message_holds_what_py_spiffe_does_not_check(domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web", hint="outside", dns_names=["web.interop.test"]))

    message = (await peer.messages(await peer.stream("FetchX509SVID", HEADER)))[0]

    assert message["crl"] == []
    assert message["federated_bundles"] == {}  # nor is the own trust domain here
    [svid] = message["svids"]
    assert (svid["spiffe_id"], svid["hint"]) == (spiffe_id("/web"), "outside")
    check_chain(svid)
    check_key(svid)


def check_chain(svid: dict[str, Any]) -> None:
    """The chain proves the ID by the bundle beside it; the leaf is what the profile says, and DER all through."""
    chain = parse_der_chain(raw(svid, "x509_svid"))
    assert b"".join(each.public_bytes(Encoding.DER) for each in chain) == raw(svid, "x509_svid")
    bundle = Bundle.from_der(TRUST_DOMAIN, raw(svid, "bundle"))
    assert verify(chain, BundleSet([bundle]), SystemClock().now()) == SpiffeID.parse(svid["spiffe_id"])
    assert not set(chain) & set(bundle.x509_authorities)  # the root is known, not sent
    leaf = chain[0]
    assert not leaf.subject.rdns
    assert {type(each.value): each.critical for each in leaf.extensions} == CRITICAL
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [svid["spiffe_id"]]
    assert names.get_values_for_type(x509.DNSName) == ["web.interop.test"]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert all(each.not_valid_before_utc <= SystemClock().now() < each.not_valid_after_utc for each in chain)
    assert leaf.not_valid_after_utc <= chain[1].not_valid_after_utc


def check_key(svid: dict[str, Any]) -> None:
    """The key is the leaf's, in PKCS#8 to the byte."""
    key = load_der_private_key(raw(svid, "x509_svid_key"), password=None)
    assert key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == raw(svid, "x509_svid_key")
    leaf = parse_der_chain(raw(svid, "x509_svid"))[0]
    shape = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*shape) == leaf.public_key().public_bytes(*shape)


def raw(svid: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(svid[name])


async def test_a_raw_bundle_message_has_the_own_trust_domain_as_the_svid_message_does(domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web"))

    bundles = (await peer.messages(await peer.stream("FetchX509Bundles", HEADER)))[0]
    svids = (await peer.messages(await peer.stream("FetchX509SVID", HEADER)))[0]

    assert bundles == {"crl": [], "bundles": {str(TRUST_DOMAIN.id): svids["svids"][0]["bundle"]}}


async def test_each_message_of_a_root_rotation_is_whole_and_the_bundle_widens_before_the_leaf_changes(
    domain: Domain, start: Start
):
    socket = await domain.socket("/web")
    await domain.register(socket, "/api")
    peer = await start("pyspiffe", socket)
    stream = await peer.stream("FetchX509SVID", HEADER)
    await peer.messages(stream)

    await domain.rotate("root")

    async def whole() -> list[list[dict[str, Any]]]:
        messages = [message["svids"] for message in await peer.messages(stream)]
        return messages if len(messages) > 1 and roots(messages[-1][0]) == 1 else []

    messages = await until(whole)
    assert {tuple(sorted(svid["spiffe_id"] for svid in svids)) for svids in messages} == {
        (spiffe_id("/api"), spiffe_id("/web"))
    }
    everything = [svid for svids in messages for svid in svids]
    assert {roots(svid) for svid in everything} == {1, 2}
    for before, after in pairwise(messages):
        bundles = (before[0]["bundle"], after[0]["bundle"])
        assert all(proves(svid, bundle) for svid in (*before, *after) for bundle in bundles)
    assert not proves(messages[0][0], messages[-1][0]["bundle"])


def roots(svid: dict[str, Any]) -> int:
    return len(parse_der_chain(raw(svid, "bundle")))


def proves(svid: dict[str, Any], bundle: str) -> bool:
    bundles = BundleSet([Bundle.from_der(TRUST_DOMAIN, base64.b64decode(bundle))])
    try:
        verify(parse_der_chain(raw(svid, "x509_svid")), bundles, SystemClock().now())
    except VerificationFailed:
        return False
    return True


async def test_subscribers_of_a_source_hear_of_a_rotation(domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web"))
    await peer.open()
    before = await peer.do("updates")

    await domain.rotate("root")

    async def heard() -> bool:
        return await peer.do("updates") >= before + 3

    await until(heard)  # a wider bundle, a new leaf, a narrow bundle


async def test_a_removed_entry_ends_streams_and_refuses_calls_with_a_reason(domain: Domain, start: Start):
    socket = next(domain.free)
    entry = await domain.register(socket, "/web")
    peer = await start("pyspiffe", socket)
    streams = [await peer.stream(method, HEADER) for method in ("FetchX509SVID", "FetchX509Bundles")]
    for stream in streams:
        await peer.messages(stream)

    await domain.do("entries", "Delete", pb.DeleteEntryRequest(id=entry))

    for stream in streams:
        code, text = await peer.ending(stream)
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert text
    for call in ("fetch_x509_svid", "fetch_x509_svids", "fetch_x509_context", "fetch_x509_bundles"):
        with pytest.raises(Refused, match="PERMISSION_DENIED") as refused:
            await peer.do("ask", call=call)
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert "no registration entry covers this process" in refused.value.text


@pytest.mark.parametrize("metadata", WITHOUT_HEADER)
async def test_every_method_demands_the_header(metadata: tuple[tuple[str, str], ...], domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web"))

    streams = {method: await peer.stream(method, *metadata) for method in METHODS}

    codes = {method: (await peer.ending(stream))[0] for method, stream in streams.items()}
    assert codes == dict.fromkeys(METHODS, grpc.StatusCode.INVALID_ARGUMENT)


async def test_calls_of_other_profiles_are_unimplemented(domain: Domain, start: Start):
    peer = await start("pyspiffe", await domain.socket("/web"))
    calls: dict[str, dict[str, object]] = {
        "fetch_jwt_svid": {"audience": ["a"]},
        "fetch_jwt_svids": {"audience": ["a"]},
        "fetch_jwt_bundles": {},
    }
    for call, arguments in calls.items():
        with pytest.raises(Refused) as refused:
            await peer.do("ask", call=call, **arguments)
        assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
    streams = {method: await peer.stream(method, HEADER) for method in METHODS[2:]}
    codes = {method: (await peer.ending(stream))[0] for method, stream in streams.items()}
    assert codes == dict.fromkeys(METHODS[2:], grpc.StatusCode.UNIMPLEMENTED)


async def test_the_default_identity_comes_first_also_after_a_rotation_and_a_restart(domain: Domain, start: Start):
    socket = next(domain.free)
    for path, fields in {"/a": {"hint": "a"}, "/b": {"hint": "b", "default": True}, "/c": {}}.items():
        await domain.register(socket, path, **fields)
    peer = await start("pyspiffe", socket)

    async def identities() -> list[tuple[str, str]]:
        message = (await peer.messages(await peer.stream("FetchX509SVID", HEADER)))[0]
        return [(svid["spiffe_id"], svid["hint"]) for svid in message["svids"]]

    orders = [await identities()]
    await peer.open()
    await domain.rotate("intermediate")
    orders.append(await identities())
    await domain.server.kill()
    await domain.server.start()
    orders.append(await identities())

    assert orders[0][0] == (spiffe_id("/b"), "b")
    assert set(orders[0]) == {(spiffe_id("/a"), "a"), (spiffe_id("/b"), "b"), (spiffe_id("/c"), "")}
    assert orders == orders[:1] * 3
    assert list((await peer.held()).chains) == [spiffe_id("/b")]


async def test_hints_are_unique_in_a_message_and_not_too_long(domain: Domain, start: Start):
    socket = next(domain.free)
    for path in ("/a", "/b"):
        await domain.register(socket, path, hint="same")
    with pytest.raises(CallFailed, match="1025 bytes"):
        await domain.register(socket, "/c", hint="x" * 1025)
    peer = await start("pyspiffe", socket)

    message = (await peer.messages(await peer.stream("FetchX509SVID", HEADER)))[0]

    assert sorted(svid["hint"] for svid in message["svids"]) == ["", "same"]


async def test_an_entry_added_or_removed_changes_one_identity_and_leaves_the_others(domain: Domain, start: Start):
    socket = await domain.socket("/stays")
    peer = await start("pyspiffe", socket)
    stays = (await peer.fetch()).chains

    entry = await domain.register(socket, "/comes-and-goes")

    async def count() -> int:
        return len((await peer.fetch()).chains)

    async def two() -> bool:
        return await count() == 2

    async def one() -> bool:
        return await count() == 1

    await until(two)
    await domain.do("entries", "Delete", pb.DeleteEntryRequest(id=entry))
    await until(one)
    assert (await peer.fetch()).chains == stays
