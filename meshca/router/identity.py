"""Who the router is, and who dials it: mutual TLS with SVIDs in both directions.

Rules:
- gRPC checks that a client's chain leads to our roots. Whose it is we verify ourselves, by the checklist of `spiffe.x509verify` and against
  the bundle of our own trust domain only: nobody else's workloads are configured here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.model import ROUTER_PATH
from sds.errors import Unauthenticated
from sds.workload_client import X509Context
from spiffe.bundle import BundleSet
from spiffe.errors import SpiffeError
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509verify import verify

Evidence = Mapping[str, Sequence[bytes]]
"""What a client showed in TLS: gRPC's auth context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A client, by its SVID, which holds until `not_after`. It showed this chain, leaf first, and was judged by these bundles.

    `dials_from` is IP:PORT.
    """

    spiffe_id: SpiffeID
    serial: int
    not_after: datetime
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    bundles: BundleSet = field(repr=False)
    dials_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the router shows and trusts. Made of what the Workload API gives it."""

    own: TrustDomain
    bundles: BundleSet
    key: bytes = field(repr=False)
    chain: bytes
    roots: bytes
    """All PEM."""
    not_after: datetime
    """When the router's own certificate ends."""

    @classmethod
    def of(cls, context: X509Context) -> "Credentials | None":
        """The credentials of this context; None while it has no identity of a router's."""
        found = next((each for each in context.identities if each.svid.spiffe_id.path == ROUTER_PATH), None)
        if found is None:
            return None
        own = found.svid.spiffe_id.trust_domain
        bundle = context.bundles.get(own)
        if bundle is None or not bundle.x509_authorities:
            return None
        return cls(
            own=own,
            bundles=BundleSet([bundle]),
            key=found.svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            chain=_pem(found.svid.chain),
            roots=_pem(bundle.x509_authorities),
            not_after=found.svid.leaf.not_valid_after_utc,
        )


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def identify(evidence: Evidence, credentials: Credentials | None, now: datetime) -> Peer:
    """The client whose evidence this is. Raises Unauthenticated."""
    if credentials is None:
        raise Unauthenticated("the router has no identity at present")
    try:
        leaf = x509.load_pem_x509_certificate(evidence["x509_pem_cert"][0])
        others = b"".join(evidence.get("x509_pem_cert_chain", ()))
        chain = (leaf, *(x509.load_pem_x509_certificates(others) if others else ()))
        return Peer(
            spiffe_id=verify(chain, credentials.bundles, now),
            serial=leaf.serial_number,
            not_after=leaf.not_valid_after_utc,
            chain=chain,
            bundles=credentials.bundles,
        )
    except (KeyError, IndexError, ValueError, SpiffeError) as error:
        raise Unauthenticated(f"the client's certificate proves no identity here: {error}") from error


def judge(peer: Peer, credentials: Credentials, now: datetime) -> None:
    """Check that what a client showed still proves its identity, by these bundles. Raises Unauthenticated."""
    try:
        verify(peer.chain, credentials.bundles, now)
    except SpiffeError as error:
        raise Unauthenticated(f"the client's certificate proves no identity any more: {error}") from error
