"""What a caller may have, as Envoy secrets: first `select` what a name means for it now, then `render` that. Pure; `now` is an argument.

Names are exact: `default` (the first identity), `ROOTCA` (the own bundle), `ALL` (own and federated), an entitled SPIFFE ID, a trust
domain ID. Whatever else a name is, or what is denied or pending, selects nothing: the stream stays silent.

Rules, because an Envoy that loads a bad secret is harmed for longer than one that waits (facts/spiffe.md 4.3, 4.6):
1. The key matches its leaf and the chain is leaf first: X509SVID holds that. No certificate of the chain has expired.
2. Trust domain names are bare and unique: BundleSet holds that. None is without roots, and all roots are self-signed.
3. One trust domain per context, but for `ALL`; and trust domains are never pooled in one list of authorities.
4. A version changes with the content only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig
from google.protobuf.any_pb2 import Any

from sds.errors import UnusableSecret
from sds.provider import Grants, Proof
from sds.xds.resource import Node, Resource
from sds.xds.wire import pack
from spiffe.bundle import Bundle
from spiffe.errors import InvalidID
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509svid import X509SVID

DEFAULT, ROOTCA, ALL = "default", "ROOTCA", "ALL"
VALIDATOR = "envoy.tls.cert_validator.spiffe"

_OPT_OUT = "disable_spiffe_cert_validation"
_FIRST_WITH_VALIDATOR = (1, 18)
_HASH_OF_NOTHING = "00" * 32
_CONTEXTS_KEPT = 256


class Flavor(Enum):
    """How a client wants to be told whom to trust."""

    SPIFFE = "spiffe"
    """With Envoy's SPIFFE validator, which keeps trust domains apart."""
    PLAIN = "plain"
    """With a list of authorities, for clients that have no such validator."""


def flavor_of(node: Node) -> Flavor:
    """Return what suits this client: plain if it says so in its metadata, or is Envoy 1.17 or older."""
    too_old = node.user_agent == "envoy" and node.version is not None and node.version < _FIRST_WITH_VALIDATOR
    return Flavor.PLAIN if too_old or _OPT_OUT in node.flags else Flavor.SPIFFE


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSecret:
    """An identity to prove, under the name by which it was asked for."""

    name: str
    svid: X509SVID


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSecret:
    """Whom to trust: nobody if there are no bundles. `own` is the digest of the own trust domain's bundle, if it is among them."""

    name: str
    flavor: Flavor
    own: str = ""
    digests: tuple[str, ...] = ()
    bundles: tuple[Bundle, ...] = field(default=(), compare=False, repr=False)
    """Equal if the digests are, which is cheaper to find out."""


Selection = CertificateSecret | TrustSecret


def select(grants: Grants, name: str, *, flavor: Flavor, now: datetime) -> Selection | None:
    """Return what `name` means for a caller with these grants, None if nothing. Raises UnusableSecret if that must not be sent."""
    subject = _subject(name)
    if grants.cut_off:
        trusts = name in (ROOTCA, ALL) or (subject is not None and not subject.is_workload)
        return TrustSecret(name=name, flavor=flavor) if trusts else None
    if grants.denied or grants.pending:
        return None
    if name == ALL:
        return _all_trusted(grants, flavor)
    if name == ROOTCA:
        return _trusted(grants, name, grants.trust_domain.id, flavor)
    if subject is not None and not subject.is_workload:
        return _trusted(grants, name, subject, flavor)
    return _certified(grants, name, now)


def render(selection: Selection) -> Resource:
    """Return the resource to send; its `proof` is what a client holds that accepted it. Raises UnusableSecret."""
    if isinstance(selection, TrustSecret):
        return _render_trust(selection)
    svid = selection.svid
    certificate = TlsCertificate(certificate_chain=_inline(svid.chain_pem()), private_key=_inline(svid.key_pem()))
    secret = Secret(name=selection.name, tls_certificate=certificate)
    return pack(selection.name, secret, Proof(serials=frozenset({svid.serial})))


def _subject(name: str) -> SpiffeID | None:
    try:
        return SpiffeID.parse(name)
    except InvalidID:
        return None


def _certified(grants: Grants, name: str, now: datetime) -> CertificateSecret | None:
    found = (each.svid for each in grants.identities if name in (DEFAULT, str(each.svid.spiffe_id)))
    svid = next(found, None)
    if svid is None:
        return None
    end = min(certificate.not_valid_after_utc for certificate in svid.chain)
    if end <= now:
        raise UnusableSecret(f"{name!r}: the chain of {svid.spiffe_id} ended at {end:%Y-%m-%dT%H:%M:%SZ}")
    return CertificateSecret(name=name, svid=svid)


def _trusted(grants: Grants, name: str, trust_domain: SpiffeID, flavor: Flavor) -> TrustSecret | None:
    bundle = grants.bundles.get(trust_domain.trust_domain)
    return None if bundle is None else _trust(grants, name, (bundle,), flavor)


def _all_trusted(grants: Grants, flavor: Flavor) -> TrustSecret | None:
    if flavor is Flavor.PLAIN:
        raise UnusableSecret(
            f"{ALL!r} would pool trust domains for a client without the SPIFFE validator; ask for each"
        )
    if grants.trust_domain not in grants.bundles:
        return None
    return _trust(grants, ALL, grants.bundles.values(), flavor)


def _trust(grants: Grants, name: str, bundles: Iterable[Bundle], flavor: Flavor) -> TrustSecret:
    chosen = tuple(bundles)
    own = next((bundle.digest for bundle in chosen if bundle.trust_domain == grants.trust_domain), "")
    digests = tuple(bundle.digest for bundle in chosen)
    return TrustSecret(name=name, flavor=flavor, own=own, digests=digests, bundles=chosen)


@lru_cache(maxsize=_CONTEXTS_KEPT)  # one change of a bundle goes to thousands of streams
def _render_trust(selection: TrustSecret) -> Resource:
    contexts = {Flavor.SPIFFE: _spiffe_context, Flavor.PLAIN: _plain_context}
    context = contexts[selection.flavor](_roots(selection))
    return pack(selection.name, Secret(name=selection.name, validation_context=context), Proof(bundle=selection.own))


def _roots(selection: TrustSecret) -> dict[TrustDomain, bytes]:
    """Return each trust domain's roots as PEM (rule 2). Of ALL, a foreign trust domain without roots is left out."""
    roots = {}
    for bundle in selection.bundles:
        if pem := _self_signed(bundle):
            roots[bundle.trust_domain] = pem
        elif selection.name != ALL or bundle.digest == selection.own:
            raise UnusableSecret(f"{selection.name!r}: the bundle of {bundle.trust_domain} has no self-signed root")
    return roots


def _spiffe_context(roots: Mapping[TrustDomain, bytes]) -> CertificateValidationContext:
    """Envoy refuses everybody if there is no trust domain in it (facts/spiffe.md 4.5)."""
    domains = [
        SPIFFECertValidatorConfig.TrustDomain(name=trust_domain.name, trust_bundle=_inline(pem))
        for trust_domain, pem in roots.items()
    ]
    config = Any()
    config.Pack(SPIFFECertValidatorConfig(trust_domains=domains), deterministic=True)
    validator = TypedExtensionConfig(name=VALIDATOR, typed_config=config)
    return CertificateValidationContext(custom_validator_config=validator)


def _plain_context(roots: Mapping[TrustDomain, bytes]) -> CertificateValidationContext:
    """No list of authorities says that nobody is trusted, so that is said by a hash that no certificate has."""
    if not roots:
        return CertificateValidationContext(verify_certificate_hash=[_HASH_OF_NOTHING])
    (pem,) = roots.values()
    return CertificateValidationContext(trusted_ca=_inline(pem))


def _self_signed(bundle: Bundle) -> bytes:
    """Return the self-signed authorities as PEM: Envoy cannot anchor a chain in any other."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in bundle.x509_authorities if _is_self_signed(each))


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _inline(content: bytes) -> DataSource:
    return DataSource(inline_bytes=content)
